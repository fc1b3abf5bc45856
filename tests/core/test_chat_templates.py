"""Chat templates that models really ship: the sandbox renders what transformers renders, and refuses what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit import chat
from edgekit.errors import InputError

USER = {"role": "user", "content": " Hi <b>&amp; 'é' 😀\n"}
SYSTEM = {"role": "system", "content": "Be brief. "}
ASSISTANT = {"role": "assistant", "content": "Yo {{ x }}"}
AGAIN = {"role": "user", "content": "again\t"}
TALKS = ([USER], [SYSTEM, USER], [USER, ASSISTANT, AGAIN], [SYSTEM, USER, ASSISTANT, AGAIN])


def test_real_templates_render_as_in_transformers(data: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models

    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>"
    )
    lines = (data / "configs" / "chat-templates" / "templates.jsonl").read_text().splitlines()
    templates = [text for line in lines if line.strip() for text in json.loads(line).values()]
    assert len(templates) == 35
    rendered = 0
    for template in templates:
        for talk in TALKS:
            for prompt in (False, True):
                rendered += same(tokenizer, template, talk, prompt)
    assert rendered >= 35 * 2


def same(tokenizer: Any, template: str, talk: list[dict[str, str]], prompt: bool) -> bool:
    """Whether it renders; that both sides agree on it is asserted."""
    options: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": prompt}
    try:
        expected = tokenizer.apply_chat_template(
            talk, chat_template=template, tokenize=False, add_generation_prompt=prompt
        )
    except Exception as error:  # noqa: BLE001 - whatever a template raises there is one error here, with its words
        with pytest.raises(InputError) as caught:
            chat.render(template, talk, **options)
        assert str(error) in str(caught.value.found)
        return False
    assert chat.render(template, talk, **options) == expected
    return True
