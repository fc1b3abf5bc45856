"""Regexes, Lark grammars, lists of choices, and the cache of compiled schemas."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.runtimes import grammars
from edgekit.runtimes.grammars import (
    Grammar,
    GrammarCache,
    choice_grammar,
    lark_grammar,
    regex_grammar,
    shielded,
)
from tests.runtimes.walks import ENGINE, VOCABULARY, walk

SPECIAL = "<|end|>"
"""Of the fake engine's vocabulary: as a control token it ends the answer."""


def walks(grammar: Grammar, count: int = 12) -> set[str]:
    return {text.decode() for seed in range(count) if (text := walk(grammar, seed)) is not None}


@pytest.mark.parametrize("pattern", ["[a-c]{2,5}", "(ab|cd)+x?", r"[0-9]{4}-[0-9]{2}", "ä|ö+", "(a+)+b"])
def test_a_regex_from_end_to_end(pattern: str) -> None:
    texts = walks(regex_grammar(pattern))
    assert texts
    for text in texts:
        assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)b",
        r"(a)\1",
        "(",
        "[^\\s\\S]",
        "^((a{100}){100}){100}$",
        "a" * 70_000,
        "\ud800",
        3,
        "(a?){3000}a{3000}",
    ],
)
def test_a_regex_that_cannot_be_enforced(pattern: Any) -> None:
    with pytest.raises(InputError, match="pattern"):
        regex_grammar(pattern)


def test_a_lark_grammar() -> None:
    grammar = lark_grammar(
        'start: "(" inner ")" // a comment <|end|>\ninner: start | /[a-z]</ | "<|end|>"i\n%ignore / /'
    )
    texts = walks(grammar)
    assert texts
    for text in texts:
        bare = text.replace(" ", "")
        while bare.startswith("((") and bare.endswith("))"):
            bare = bare[1:-1]
        assert re.fullmatch(r"(?i)\(([a-z]<|<\|end\|>)\)", bare)


@pytest.mark.parametrize(
    "text",
    [
        f'start: "a" {SPECIAL}',
        'start: "a" <[257]>',
        "start: <[*]>",
        'start: %json {"type": "string", "maxlength": 3}',
        'start: %regex {"substring_chars": "ab"}',
        '%llguidance {"no_forcing": true}\nstart: "a"',
        "start: @other",
        'start: @{ "a" @}',
        'start[max_tokens=3]: "a"',
        'start[capture, stop="b"]: /a*/',
        'start[temperature=0.5]: "a"',
        'start: A\nA: /a/ & /b/ & /c/ & /d/ & /e/ & /f/ & /g/ & /h/ & /i/ & ~/j/',
        'start: "a',
        "start: missing",
        "",
        "other: \"a\"",
        "start: start",
        "start: A\nA: /(?=a)b/",
        f'start: /a{SPECIAL}',
        f'start: "a\\q" {SPECIAL}',
        "start: " + "(" * 5000 + '"a"' + ")" * 5000,
        None,
    ],
)  # fmt: skip
def test_a_lark_grammar_that_cannot_be_enforced(text: Any) -> None:
    with pytest.raises(InputError, match="Lark grammar"):
        lark_grammar(text)


CHOICES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
    min_size=1,
    max_size=5,
    unique=True,
)


@settings(deadline=None, max_examples=100)
@given(CHOICES, st.integers(0, 2**32))
def test_one_of_the_choices(choices: list[str], seed: int) -> None:
    text = walk(choice_grammar(choices), seed)
    assert text is not None and text.decode() in choices


def test_control_tokens_among_choices_are_text() -> None:
    choices = [SPECIAL, "<|eos|>", "<|eot_id|>", "plain"]
    assert walks(choice_grammar(choices), 40) == set(choices)
    schema = {"enum": [SPECIAL, "<|eos|>"]}
    assert walks(grammars.compile_schema(schema), 40) == {f'"{SPECIAL}"', '"<|eos|>"'}
    forced = VOCABULARY.matcher(choice_grammar([SPECIAL])).forced()
    assert forced[: len(SPECIAL)] == list(SPECIAL.encode())
    assert set(forced[len(SPECIAL) :]) <= ENGINE.eos_ids


@pytest.mark.parametrize(
    "choices",
    [[], "yes", ["a", "a"], [""], ["a", 3], [str(n) for n in range(5000)], ["x" * 70_000], {"a"}, ["\ud800"]],
)
def test_choices_out_of_bounds(choices: Any) -> None:
    with pytest.raises(InputError, match="choice"):
        choice_grammar(choices)


def test_a_panic_of_the_mask_engine_is_an_input_error() -> None:
    class PanicException(BaseException):
        pass

    def panic() -> None:
        raise PanicException("assertion failed")

    with pytest.raises(InputError, match="assertion failed"):
        shielded("output schema", panic)
    with pytest.raises(KeyboardInterrupt):
        shielded("output schema", lambda: (_ for _ in ()).throw(KeyboardInterrupt()))


def const(value: object) -> dict[str, Any]:
    return {"const": value}


def test_the_cache_compiles_once() -> None:
    cache = GrammarCache()
    assert cache.get(const(1)) is cache.get(const(1))
    assert cache.get(const(1)) is not cache.get(const(2))
    # The order of the keys is that of the answer.
    two = [{"type": "object", "properties": {name: const(1) for name in names}} for names in ("ab", "ba")]
    assert cache.get(two[0]) is not cache.get(two[1])
    with pytest.raises(InputError):
        cache.get({"not": {}})
    with pytest.raises(InputError):
        cache.get({"const": object()})
    assert len(cache) == 4


def test_the_cache_keeps_what_was_used_last() -> None:
    cache = GrammarCache(max_count=2)
    first, second = cache.get(const(1)), cache.get(const(2))
    assert cache.get(const(1)) is first
    cache.get(const(3))
    assert len(cache) == 2
    assert cache.get(const(1)) is first
    assert cache.get(const(2)) is not second


def test_the_cache_is_bounded_in_size() -> None:
    cache = GrammarCache(max_bytes=5000)
    for n in range(10):
        cache.get(const("x" * 1000 + str(n)))
        assert cache.bytes <= 5000
    assert 0 < len(cache) < 10
    assert cache.get(const("x" * 6000)).schema == json.dumps(const("x" * 6000), separators=(",", ":"))
    assert cache.bytes <= 5000


def test_the_cache_is_shared_by_threads() -> None:
    cache = GrammarCache(max_count=3)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: (n % 5, cache.get(const(n % 5)).schema), range(200)))
    assert all(schema == f'{{"const":{n}}}' for n, schema in found)
    assert len(cache) <= 3
    assert cache.bytes == sum(
        len(grammar.source) + len(grammar.schema or "") for grammar in cache._kept.values()
    )
