"""Prompts put together from pieces are what rendering gives, and templates that look at contents are left to rendering."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import chat
from edgekit.errors import InputError
from edgekit.plain_templates import strips
from tests.conftest import BASE

LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|h|>' + m['role'] + '<|e|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|h|>assistant<|e|>\n\n' }}{% endif %}"
)
CHATML = "{% for message in messages %}{{'<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n'}}{% endfor %}"
SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set said = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if loop.first and said is defined %}<<{{ said }}>>{% endif %}"
    "{% set text = '[' ~ m['content'] ~ ']' %}{{ text }}{% if not loop.last %} {% endif %}{% endfor %}{{ messages | length }}"
)
PLAIN = {"llama": (LLAMA, True), "chatml": (CHATML, False), "system": (SYSTEM, False)}

LOOKING = [
    "{% for m in messages %}{% if m.content == 'x' %}y{% endif %}{% endfor %}",
    "{% for m in messages %}{% if m.content %}{{ m.content }}{% endif %}{% endfor %}",
    "{% for m in messages %}{% set c = m.content %}{% if c %}{{ c }}{% endif %}{% endfor %}",
    "{{ messages[0].content | upper }}",
    "{{ messages[0].content[0] }}",
    "{{ messages[0].content[:3] }}",
    "{{ messages[0].content.split('a') }}",
    "{{ messages[0].content | trim('x') }}",
    "{{ ('a' + messages[0].content) | trim }}",
    "{% for m in messages %}{{ m.content | trim }}{{ m.content }}{% endfor %}",
    "{{ messages[0] }}",
    "{{ messages }}",
    "{{ messages | tojson }}",
    "{{ messages | map(attribute='content') | join }}",
    "{% for k, v in messages[0].items() %}{{ v }}{% endfor %}",
    "{% for m in messages %}{% for k in m %}{{ m[k] }}{% endfor %}{% endfor %}",
    "{{ messages[0].get('content') }}",
    "{{ messages[0]['con' + 'tent'] }}",
    "{{ messages[0].values() }}",
    "{{ messages[-1].content * 2 }}",
    "{{ messages[0].content in 'abc' }}",
    "{% for c in messages[0].content %}{{ c }}{% endfor %}",
    "{% set ns = namespace(x='') %}{% for m in messages %}{% set ns.x = m.content %}{% endfor %}{{ ns.x }}",
    "{% for m in messages %}{{ loop.previtem }}{% endfor %}",
    "{% for m in messages %}{{ loop.changed(m.content) }}{% endfor %}",
    "{% for m in messages %}{{ loop.cycle(m, m.content) }}{% endfor %}",
    "{% macro f(x) %}{{ x | upper }}{% endmacro %}{{ f(messages[0].content) }}",
    "{% filter upper %}{{ messages[0].content }}{% endfilter %}",
    "{{ raise_exception(messages[0].content) }}",
    "{{ strftime_now('%d') }}{{ messages[0].content }}",
    "{{ messages[0].content if messages[0].content else 'x' }}",
    "{% if messages == [] %}x{% endif %}",
    "{% if messages[0].content is in ['a'] %}x{% endif %}",
    "{% if messages[0].content is eq 'a' %}x{% endif %}",
    "{{ messages | length + (messages[0].content | length) }}",
    "{% set x = messages[0].content %}{% set x = x | upper %}{{ x }}",
    "{% set x = messages %}{% set x = 'a' %}{{ x }}",
    "{{ self }}",
    "{{ [messages[0].content] }}",
    "{{ {'a': messages[0].content} }}",
    "{% include messages[0].content %}",
    "{% if",
]  # fmt: skip

texts = st.text(st.characters(max_codepoint=0xEFFFF, exclude_categories=["Cs"]), max_size=30)
contents = st.one_of(
    texts, st.sampled_from(["", " ", "\n a \n", "{{ 7*7 }}", "{% if %}", "x" * 999, "</s>", "\x00"])
)


def both(template: str, messages: list[dict[str, str]], **options: Any) -> tuple[str | None, str]:
    given: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"} | options
    return chat._assembled(template, messages, given), chat.render(template, messages, **given)


@given(
    st.sampled_from(sorted(PLAIN)), st.lists(contents, min_size=1, max_size=5), st.booleans(), st.booleans()
)
def test_pieces_are_what_rendering_gives(name: str, said: list[str], system: bool, generation: bool) -> None:
    template, stripping = PLAIN[name]
    assert strips(template) is stripping
    roles = (["system"] if system else []) + ["user", "assistant"] * 5
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    assembled, rendered = both(template, messages, add_generation_prompt=generation)
    assert assembled == rendered


@pytest.mark.parametrize("template", LOOKING)
def test_templates_that_look_at_contents_are_rendered(template: str) -> None:
    assert strips(template) is None
    assert (
        chat._assembled(template, [{"role": "user", "content": "a"}], {"bos_token": "", "eos_token": ""})
        is None
    )


def test_the_example_is_put_together() -> None:
    template = (BASE / "chat_template.jinja").read_text()
    assert strips(template) is not None
    assembled, rendered = both(template, [{"role": "user", "content": " two at eight "}])
    assert assembled == rendered


def test_real_templates(data: Path) -> None:
    """Those that are understood give what rendering gives; most are, or nothing would be gained."""
    understood = 0
    lines = (data / "configs/chat-templates/templates.jsonl").read_text().splitlines()
    for line in lines:
        (template,) = json.loads(line).values()
        for roles in (("user",), ("system", "user"), ("user", "assistant", "user")):
            for text in ("hello", "  spaced \n", "", "{{ messages }}", "<|im_end|>", "ünï\u2003"):
                messages = [{"role": role, "content": text} for role in roles]
                try:
                    assembled, rendered = both(template, messages)
                except InputError:
                    continue
                assert assembled in (None, rendered)
        understood += strips(template) is not None
    assert understood >= len(lines) // 3


def test_what_is_not_a_plain_conversation_is_rendered() -> None:
    options = {"bos_token": "", "eos_token": ""}
    plain = [{"role": "user", "content": "a"}]
    assert chat._assembled(CHATML, plain, options)
    for messages in (
        [{"role": "user", "content": ["a"]}],
        [{"role": "user"}],
        [plain[0] | {"name": "x"}],
        [],
    ):
        assert chat._assembled(CHATML, messages, options) is None
    assert chat._assembled(CHATML, plain, options | {"tools": [{}]}) is None
    long = [{"role": "user", "content": "a" * chat.ASSEMBLED}]
    assert chat._assembled(CHATML, long, options) is None
    # A template that holds the very characters that mark places.
    assert chat._assembled(CHATML + "\U000f0000", plain, options) is None
