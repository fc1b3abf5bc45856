"""Answers: ends, budgets, prefix reuse, forced tokens, and answers that don't depend on what came before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edgekit.errors import InputError
from edgekit.runtimes.constraint import compile_schema
from edgekit.runtimes.engine import Logits, Run
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions
from edgekit.runtimes.request import Request
from edgekit.runtimes.sampling import Sampling
from edgekit.runtimes.slots import STEP
from tests.runtimes.serving import answer, ask, serving


def test_an_answer_to_its_end() -> None:
    text, finish = ask(FakeEngine("Grüße 😀"), "hi")
    assert text == "Grüße 😀"
    assert (finish.reason, finish.tokens, finish.prompt_tokens) == ("stop", 12, 2)
    assert 0 <= finish.first_token_seconds <= finish.seconds


def test_cut_off_by_max_tokens() -> None:
    text, finish = ask(FakeEngine("abcdef"), "hi", max_tokens=3)
    assert (text, finish.reason, finish.tokens) == ("abc", "length", 3)


def test_half_a_character_at_the_end_is_marked() -> None:
    assert ask(FakeEngine("é"), "hi", max_tokens=1)[0] == "�"


def test_cut_off_by_the_context() -> None:
    text, finish = ask(FakeEngine("abcdef", n_ctx=5), "hi")
    assert (text, finish.reason) == ("abcd", "length")


def test_a_prompt_that_does_not_fit() -> None:
    with pytest.raises(InputError, match="doesn't fit") as error:
        ask(FakeEngine("x", n_ctx=3), "four")
    assert "4 tokens" in str(error.value) and "at most 3" in str(error.value)
    with pytest.raises(InputError, match="empty"):
        ask(FakeEngine("x"), "")


def test_stop_strings() -> None:
    text, finish = ask(FakeEngine("one\ntwo\nthree"), "hi", stop=("\nth",))
    assert (text, finish.reason) == ("one\ntwo", "stop")


@pytest.mark.parametrize(
    "options", [{"max_tokens": 0}, {"max_tokens": "9"}, {"stop": ("x",), "grammar": object()}]
)
def test_unsound_requests(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Request(**options)  # type: ignore[arg-type]


def test_where_answers_must_not_change_the_cache_is_reused_in_whole_steps() -> None:
    engine = FakeEngine("ok")
    prompt = [65] * (3 * STEP)
    with serving(engine, exact=True) as scheduler:
        answer(scheduler, prompt, Request())
        assert engine.decoded == len(prompt) + 2
        engine.decoded = 0
        answer(scheduler, [*prompt, 66, 67], Request())
        assert engine.decoded == len(prompt) + 2 - 2 * STEP + 2
        engine.decoded = 0
        answer(scheduler, [66, *prompt], Request())
        assert engine.decoded == len(prompt) + 1 + 2


def test_elsewhere_all_of_it_is_reused() -> None:
    engine = FakeEngine("ok")
    prompt = [65] * 50
    with serving(engine) as scheduler:
        answer(scheduler, prompt, Request())
        engine.decoded = 0
        answer(scheduler, [*prompt, *b"ok", 66], Request())
    assert engine.decoded == 1 + 2


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "people": {"type": "integer", "maximum": 20}},
    "required": ["name", "people"],
    "additionalProperties": False,
}


def test_a_schema_that_the_model_follows() -> None:
    engine = FakeEngine('{"name":"Zoë","people":4}')
    text, finish = ask(engine, "hi", grammar=compile_schema(SCHEMA))
    assert (text, finish.reason) == ('{"name":"Zoë","people":4}', "schema")


def test_a_schema_that_the_model_resists() -> None:
    text, finish = ask(FakeEngine("I'd rather talk about the weather"), "hi", grammar=compile_schema(SCHEMA))
    assert finish.reason == "schema"
    assert list(json.loads(text)) == ["name", "people"]


def test_forced_tokens_are_decoded_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine('{"name":"","people":1}')
    sizes: list[int] = []
    decode = engine.decode

    def counting(runs: Sequence[Run]) -> Logits:
        sizes.append(sum(len(run.tokens) for run in runs))
        return decode(runs)

    monkeypatch.setattr(engine, "decode", counting)
    text, finish = ask(engine, "hi", grammar=compile_schema(SCHEMA))
    assert text == '{"name":"","people":1}'
    assert sizes[0] == len("hi") + len('{"name":"')
    assert len(sizes) < finish.tokens / 2


def test_a_constant_needs_no_model() -> None:
    engine = FakeEngine("anything")
    text, finish = ask(engine, "hi", grammar=compile_schema({"const": {"a": [1, 2]}}))
    assert (text, finish.reason, engine.decoded) == ('{"a":[1,2]}', "schema", 0)


def test_json_cut_off_is_said_so() -> None:
    for limit in (3, 10, 12):
        text, finish = ask(
            FakeEngine('{"name":"Zoë","people":4}'), "hi", grammar=compile_schema(SCHEMA), max_tokens=limit
        )
        assert (finish.reason, finish.tokens) == ("length", limit)
        assert text.replace("\ufffd", "") == b'{"name":"Zo\xc3\xab'[:limit].decode(errors="ignore")


@pytest.fixture(scope="module")
def engine(base_gguf: Path) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(base_gguf, LlamaCppOptions(n_ctx=1300, threads=1))
    yield engine
    engine.close()


@pytest.mark.parametrize("length", [20, STEP + 5, 2 * STEP + 40])
def test_what_was_asked_before_does_not_change_an_answer(engine: LlamaCppEngine, length: int) -> None:
    text = "Please book a table for two at seven, and then another for nine people at noon. " * 80
    prompt = engine.tokenize(text, special=False)[:length]
    request = Request(max_tokens=24, sampling=Sampling(temperature=2.0, seed=3))
    with serving(engine, exact=True) as scheduler:
        first = answer(scheduler, prompt, request)[0]
    with serving(engine, exact=True) as scheduler:
        answer(scheduler, [*prompt[: length // 2], 9, 9, 9], Request(max_tokens=5))
        answer(scheduler, [*prompt, 8], Request(max_tokens=3))
        assert answer(scheduler, prompt, request)[0] == first
        assert answer(scheduler, prompt, request)[0] == first


@pytest.mark.parametrize("shared", [1, STEP - 1, STEP, STEP + 2])
def test_the_probabilities_behind_that_are_the_same_bits(engine: LlamaCppEngine, shared: int) -> None:
    """Also where the shared prefix ends inside a step that was computed whole."""
    prompt = engine.tokenize("A long story about a table for two at seven. " * 80, special=False)[
        : STEP + 100
    ]
    request = Request(max_tokens=4, trace=True)
    with serving(engine, exact=True) as scheduler:
        fresh = answer(scheduler, prompt, request)[1].trace
    with serving(engine, exact=True) as scheduler:
        answer(scheduler, prompt[:shared] + [5] * (STEP + 150), Request(max_tokens=1))
        assert answer(scheduler, prompt, request)[1].trace == fresh


def test_nothing_is_decoded_twice() -> None:
    engine = FakeEngine("ok", n_ctx=4 * STEP)
    with serving(engine, exact=True) as scheduler:
        answer(scheduler, [65] * (2 * STEP), Request())
        engine.decoded = 0
        answer(scheduler, [65, *[66] * (2 * STEP)], Request())
    assert engine.decoded == 1 + 2 * STEP + 2
