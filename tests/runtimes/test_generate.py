"""The loop: ends, budgets, prefix reuse, forced tokens, and answers that don't depend on what came before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from edgekit.errors import InputError
from edgekit.runtimes.constraint import compile_schema
from edgekit.runtimes.engine import Engine, Logits, Run
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.generate import STEP, Finish, Request, Session
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions
from edgekit.runtimes.sampling import Sampling


def answer(pieces: Iterable[str | Finish]) -> tuple[str, Finish]:
    *texts, finish = pieces
    assert isinstance(finish, Finish)
    assert all(isinstance(text, str) and text for text in texts)
    return "".join(map(str, texts)), finish


def ask(engine: Engine, prompt: str, **options: object) -> tuple[str, Finish]:
    return answer(Session(engine).generate(engine.tokenize(prompt, special=False), Request(**options)))  # type: ignore[arg-type]


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


def test_the_cache_is_reused_in_whole_steps() -> None:
    engine = FakeEngine("ok")
    session = Session(engine)
    prompt = [65] * (3 * STEP)
    answer(session.generate(prompt, Request()))
    assert engine.decoded == len(prompt) + 2
    engine.decoded = 0
    answer(session.generate([*prompt, 66, 67], Request()))
    assert engine.decoded == len(prompt) + 2 - 2 * STEP + 2
    engine.decoded = 0
    answer(session.generate([66, *prompt], Request()))
    assert engine.decoded == len(prompt) + 1 + 2


def test_all_of_the_cache_is_reused_where_exactness_is_not_asked() -> None:
    engine = FakeEngine("ok")
    session = Session(engine)
    prompt = [65] * 50
    answer(session.generate(prompt, Request()))
    engine.decoded = 0
    answer(session.generate([*prompt, *b"ok", 66], Request(exact=False)))
    assert engine.decoded == 1 + 2


def test_an_abandoned_answer_leaves_the_session_usable() -> None:
    engine = FakeEngine({"one": "first answer", "two": "second"})
    session = Session(engine)
    pieces = session.generate(list(b"one"), Request())
    assert next(pieces) == "f"
    del pieces
    assert answer(session.generate(list(b"two"), Request()))[0] == "second"


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

    def counting(runs: Sequence[Run]) -> list[Logits]:
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
    first = answer(Session(engine).generate(prompt, request))[0]
    session = Session(engine)
    answer(session.generate([*prompt[: length // 2], 9, 9, 9], Request(max_tokens=5)))
    answer(session.generate([*prompt, 9], Request(max_tokens=40, exact=False)))
    answer(session.generate([*prompt, 8], Request(max_tokens=3)))
    assert answer(session.generate(prompt, request))[0] == first
    assert answer(session.generate(prompt, request))[0] == first


@pytest.mark.parametrize("shared", [1, STEP - 1, STEP, STEP + 2])
def test_the_logits_behind_that_are_the_same_bits(engine: LlamaCppEngine, shared: int) -> None:
    """Also where the shared prefix ends inside a step that was computed whole."""
    prompt = engine.tokenize("A long story about a table for two at seven. " * 80, special=False)[
        : STEP + 100
    ]
    fresh = Session(engine)._prefill(prompt, True, []).copy()
    session = Session(engine)
    session._prefill(prompt[:shared] + [5] * (STEP + 150), True, [])
    assert (session._prefill(prompt, True, []) == fresh).all()
    assert session._cached == prompt and session._exact == STEP


def test_nothing_is_decoded_twice() -> None:
    engine = FakeEngine("ok", n_ctx=4 * STEP)
    session = Session(engine)
    answer(session.generate([65] * (2 * STEP), Request()))
    engine.decoded = 0
    answer(session.generate([65, *[66] * (2 * STEP)], Request()))
    assert engine.decoded == 1 + 2 * STEP + 2
