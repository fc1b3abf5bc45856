"""Templates taken apart say the same as Jinja does, in Ollama's language too; those that can't be are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edgekit import chat
from edgekit.errors import UnsupportedModelError
from edgekit.export.ollama import template
from edgekit.export.turns import turns_of
from tests.conftest import BASE
from tests.export import modelfile

NOW = datetime(2026, 1, 1)
CHATML = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim"
    " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
QUOTES = (
    "{% for m in messages %}{{ '{{ \"\"\" \\\\ 🍜\x07 }}' + m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
DATED = "{{ 'It is ' + strftime_now('%d %b %Y') + '\n' }}" + GEMMA.replace("{{ bos_token }}", "")
LAST = "{% for m in messages %}{{ ('[LAST]' if loop.last else '[TURN]') + m.content }}{% endfor %}{{ 'A:' }}"
COUNTED = "{% for m in messages %}{{ loop.index ~ m.content ~ '\n' }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
DEAF = "{{ 'Hello' }}{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
SHOUTED = "{% for m in messages %}{{ m.role + m.content | upper }}{% endfor %}"

CHAT = [
    {"role": "system", "content": 'Be "brief".\nAlways.'},
    {"role": "user", "content": "Zoë 🍜 {{ .Content }}"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "two"},
]


@dataclass
class Words:
    """As much of an engine as is asked."""

    chat_template: str | None
    bos_token: str = "<s>"
    eos_token: str = "</s>"
    add_bos: bool = True
    specials: dict[str, int] = field(default_factory=dict)


def apart(source: str | None, **changes: Any) -> Any:
    return turns_of(Words(source, **changes), NOW)  # type: ignore[arg-type]


def check(source: str, **changes: Any) -> None:
    turns = apart(source, **changes)
    for messages in (
        [CHAT[1:2], CHAT[1:], CHAT, CHAT[:2]] if "system" in turns.around else [CHAT[1:2], CHAT[1:]]
    ):
        expected = chat.render(source, messages, bos_token="<s>", eos_token="</s>", now=NOW).removeprefix(
            "<s>"
        )
        assert turns.prompt(messages) == expected
        assert modelfile.execute(template(turns), messages) == expected


@pytest.mark.parametrize("source", [CHATML, GEMMA, QUOTES, DATED, (BASE / "chat_template.jinja").read_text()])
def test_what_is_said_is_what_jinja_says(source: str) -> None:
    check(source)


@pytest.mark.parametrize("name", ["llama-2", "phi-3"])
def test_templates_of_real_models(data: Path, name: str) -> None:
    config = json.loads((data / "tokenizers" / name / "tokenizer_config.json").read_text())
    check(config["chat_template"])


def test_a_default_system_turn_is_said_where_none_is_first() -> None:
    turns = apart(CHATML)
    assert turns.bare.endswith("You are helpful.<|im_end|>\n")
    assert "You are helpful" not in turns.prompt(CHAT)


def test_a_bos_token_is_left_to_the_tokenizer_that_adds_one() -> None:
    assert not apart(GEMMA).bare
    assert apart(GEMMA, add_bos=False).bare == "<s>"


def test_the_day_is_noticed() -> None:
    assert apart(DATED).dated and not apart(CHATML).dated
    assert apart(DATED).bare == "It is 01 Jan 2026\n"


@pytest.mark.parametrize("source", [LAST, COUNTED, DEAF, SHOUTED, None, ""])
def test_templates_that_can_not_be_taken_apart(source: str | None) -> None:
    with pytest.raises(UnsupportedModelError, match="can't be"):
        apart(source)
