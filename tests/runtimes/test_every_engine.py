"""One suite that every engine passes: the seam's promises, and what a model over it does with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgekit import golden
from edgekit.errors import InputError
from edgekit.model import Model
from edgekit.runtimes.engine import Engine, Logits, Run
from edgekit.runtimes.fake import FakeEngine

TEXT = "A table for two, tomorrow at seven: Zoë Müller, 我想订位 🍜"
SCHEMA = {
    "type": "object",
    "properties": {"people": {"type": ["string", "null"]}, "date": {"type": ["string", "null"]}},
    "required": ["people", "date"],
    "additionalProperties": False,
}
NEAR = {
    "fake": 0.0,
    "llama.cpp": 0.05,
    "onnx fp32": 1e-4,
    "onnx int4": 0.15,
    "gptq int4": 0.15,
    "awq int4": 0.15,
}
"""Logits may differ by so much where tokens are computed in other company; products of 8-bit activations round, and a
kernel for one row isn't that for many."""


def opened(kind: str, request: pytest.FixtureRequest) -> Engine:
    if kind == "fake":
        return FakeEngine('{"people":"two","date":"tomorrow"}', n_ctx=256, n_seq_max=4)
    if kind == "llama.cpp":
        pytest.importorskip("llama_cpp")
        from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

        bundles: Path = request.getfixturevalue("bundles")
        options = LlamaCppOptions(n_ctx=256, n_seq_max=4, n_kv=1024, threads=1)
        return LlamaCppEngine(bundles / "restaurant-q8_0" / "model.gguf", options)
    from edgekit.runtimes.gptq import GptqEngine
    from edgekit.runtimes.onnx import OnnxEngine
    from edgekit.runtimes.rows import RowsOptions

    form, precision = kind.split()
    made: Path = request.getfixturevalue("onnx_bundles" if form == "onnx" else "packed_bundles")
    folder = made / f"restaurant-{form}-{precision}" / form
    rows = RowsOptions(n_ctx=256, n_seq_max=4, threads=1)
    return OnnxEngine(folder, rows) if form == "onnx" else GptqEngine(folder, rows)


@pytest.fixture(scope="module", params=list(NEAR))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(kind: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = opened(kind, request)
    yield engine
    engine.close()


@pytest.fixture
def engine(made: Engine) -> Engine:
    made.clear()
    return made


@pytest.fixture
def near(kind: str) -> float:
    return NEAR[kind]


@pytest.fixture
def model(kind: str, request: pytest.FixtureRequest) -> Iterator[Model]:
    prompt = "Extract restaurant: people, date\n{text}"
    with Model(opened(kind, request), prompt=prompt, schema=SCHEMA) as model:
        yield model


def last(engine: Engine, tokens: list[int], seq: int = 0) -> Logits:
    """The logits after so many tokens more."""
    found: Logits = engine.decode([Run(seq, tokens, (len(tokens) - 1,))])[0].copy()
    return found


def ids(engine: Engine, text: str = TEXT) -> list[int]:
    return engine.tokenize(text, special=False)


def test_words_become_ids_and_come_back(engine: Engine) -> None:
    assert b"".join(map(engine.token_bytes, ids(engine))).decode() == TEXT
    assert ids(engine, "") == []
    with pytest.raises(InputError, match="surrogate"):
        ids(engine, "half \ud800")


def test_control_tokens_are_text_unless_they_are_asked_for(engine: Engine) -> None:
    for name, token in engine.specials.items():
        text = f"say {name} now"
        assert token not in engine.tokenize(text, special=False)
        assert b"".join(map(engine.token_bytes, engine.tokenize(text, special=False))).decode() == text
        assert token in engine.tokenize(text, special=True)
        assert engine.token_bytes(token) == b""


def test_one_pass_is_the_same_as_token_by_token(engine: Engine, near: float) -> None:
    tokens = ids(engine)
    whole = engine.decode([Run(0, tokens, tuple(range(len(tokens))))]).copy()
    assert whole.shape == (len(tokens), engine.n_vocab) and np.isfinite(whole).all()
    if near == 0:  # the script's answer begins where a prompt ends
        return
    engine.drop(0)
    for at, token in enumerate(tokens):
        assert np.abs(last(engine, [token]) - whole[at]).max() <= near


def test_sequences_side_by_side_are_the_same_as_alone(engine: Engine, near: float) -> None:
    if near == 0:
        pytest.skip("the script's answer begins where a prompt ends")
    texts = [ids(engine, TEXT[:end]) for end in (5, 12, 30)]
    alone = [last(engine, tokens, seq) for seq, tokens in enumerate(texts)]
    engine.clear()
    rows = engine.decode([Run(seq, tokens, (len(tokens) - 1,)) for seq, tokens in enumerate(texts)]).copy()
    assert np.abs(rows - alone).max() <= near
    steps = [last(engine, [texts[0][0]], seq) for seq in (0, 2)]
    for seq in (0, 2):
        engine.drop(seq, len(texts[seq]))
    together = engine.decode([Run(seq, [texts[0][0]], (0,)) for seq in (2, 0)]).copy()
    assert np.abs(together - steps[::-1]).max() <= near


def test_what_lies_between_is_left_alone(engine: Engine, near: float) -> None:
    """A step of the first and the last sequence must not show in those between."""
    tokens = ids(engine)
    expected = last(engine, tokens, 1)
    engine.clear()
    engine.decode([Run(1, tokens[:-1]), Run(0, tokens[:3]), Run(3, tokens[:7])])
    for _ in range(3):
        engine.decode([Run(0, tokens[:1], (0,)), Run(3, tokens[:1], (0,))])
    assert np.abs(last(engine, tokens[-1:], 1) - expected).max() <= near


def test_a_copied_prefix_goes_on_as_its_source_would(engine: Engine, near: float) -> None:
    tokens = ids(engine)
    expected = last(engine, tokens)
    engine.copy_prefix(0, 2, len(tokens) - 4)
    assert np.abs(last(engine, tokens[-4:], 2) - expected).max() <= near
    with pytest.raises(InputError, match="no such prefix"):
        engine.copy_prefix(1, 0, 1)


def test_what_was_dropped_is_forgotten(engine: Engine, near: float) -> None:
    tokens = ids(engine)
    expected = last(engine, tokens)
    engine.drop(0, 3)
    last(engine, tokens[:9])
    engine.drop(0, 3)
    assert np.abs(last(engine, tokens[3:]) - expected).max() <= near


def test_errors_leave_sequences_as_they_were(engine: Engine, near: float) -> None:
    tokens = ids(engine)
    expected = last(engine, tokens)
    engine.drop(0)
    engine.decode([Run(0, tokens[:-1])])
    for wrong in (
        [Run(0, tokens * 30)],
        [Run(0, tokens[:2]), Run(9, tokens)],
        [Run(0, tokens[:2], (2,))] if near else [Run(-1, tokens)],
        [Run(0, [engine.n_vocab])] if near else [Run(4, tokens)],
    ):
        with pytest.raises(InputError):
            engine.decode(wrong)
    assert np.abs(last(engine, tokens[-1:]) - expected).max() <= near


def test_a_prompt_of_several_calls(engine: Engine, near: float) -> None:
    if near == 0:
        pytest.skip("the script's answer begins where a prompt ends")
    tokens = (ids(engine) * 30)[: engine.n_ctx]
    expected = last(engine, tokens)
    engine.drop(0)
    for start in range(0, len(tokens), 37):
        found = last(engine, tokens[start : start + 37])
    assert np.abs(found - expected).max() <= near * 2


def test_golden_probes_replay(engine: Engine) -> None:
    recorded = golden.record(engine, "Say {text}")
    replayed = golden.replay(engine, recorded)
    assert replayed.differences == [] and replayed.probes > 6


def test_streams_are_what_generate_gives(model: Model) -> None:
    pieces = list(model.stream("Hello", max_tokens=12))
    assert "".join(pieces) == model.generate("Hello", max_tokens=12)
    assert len(pieces) > 1


def test_answers_keep_to_the_schema_from_many_threads(model: Model) -> None:
    texts = [f"A table for {number} people tomorrow" for number in range(2, 14)]
    alone = [one.data for one in model.extract_many(texts)]
    assert all(data and set(data) == {"people", "date"} for data in alone)
    found: dict[int, object] = {}

    def ask(at: int) -> None:
        found[at] = model.extract(texts[at]).data

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[at] for at in range(len(texts))] == alone


def test_a_stream_that_is_left_makes_room(model: Model) -> None:
    for _ in range(6):
        stream = model.stream("Hello", max_tokens=100)
        next(stream)
        stream.close()
    assert model.generate("Hello", max_tokens=4)


def test_a_prompt_too_long_is_a_clear_error(model: Model) -> None:
    with pytest.raises(InputError, match="fit the context"):
        model.generate("word " * 400)
    assert model.extract("word " * 400).failure is not None


def test_labels_are_scored(model: Model, near: float) -> None:
    if near == 0:
        pytest.skip("the script has no probabilities")
    found = model.classify(TEXT, ["booking", "complaint", "其他"], prompt="What is it?\n{text}")
    assert sum(found.probabilities.values()) == pytest.approx(1)
