"""Regular expressions of an adapter's configuration: those that people write are taken, none may run forever."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.converters.adapter_config import check_kind
from edgekit.errors import AdapterError

UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:k_proj|v_proj|q_proj|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\."
    r"(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:k_proj|v_proj|q_proj|o_proj)))"
)


def check(pattern: str) -> None:
    check_kind({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": pattern}, Path("config"))


@pytest.mark.parametrize(
    "pattern",
    [
        UNSLOTH,
        r".*\.(q|v)_proj",
        r"model\.layers\.(1?\d|2[0-3])\..*(?!lm_head)",
        r"(model\.)?layers\.\d+\.[^*+()|]*",
    ],
)
def test_usual_patterns_are_taken(pattern: str) -> None:
    check(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a|a)*!",
        "((?:x|.)[a-z])+!",
        "(.*)*!",
        "(?:.+_)+!",
        ".*" * 7 + "!",
        ".?" * 30 + "!",
        "(.|.){40}!",
        "(((.)|.))+?!",
    ],
)
def test_patterns_that_take_forever_are_refused(pattern: str) -> None:
    with pytest.raises(AdapterError, match="target_modules is unsound"):
        check(pattern)
