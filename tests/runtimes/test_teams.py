"""Engines over the same weights: each with a cache of its own, the same answers, closed on their own; and teams of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import HardwareError, InputError
from edgekit.model import Model, load
from edgekit.runtimes import teams
from edgekit.runtimes.engine import Logits, Run
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

OPTIONS = LlamaCppOptions(n_ctx=256, threads=2, n_seq_max=2, kv_type="f32")


@pytest.fixture
def engine(base_gguf: Path) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(base_gguf, OPTIONS)
    yield engine
    engine.close()


def last(engine: LlamaCppEngine, tokens: list[int], seq: int = 0) -> Logits:
    found: Logits = engine.decode([Run(seq, tokens, (len(tokens) - 1,))])[0].copy()
    return found


def test_a_fork_has_a_cache_of_its_own(engine: LlamaCppEngine) -> None:
    tokens = engine.tokenize("a table for two people at noon", special=False)
    whole = last(engine, tokens)
    other = engine.fork(OPTIONS)
    np.testing.assert_allclose(last(other, tokens), whole, rtol=1e-4, atol=1e-4)
    other.drop(0)
    engine.drop(0, 3)
    np.testing.assert_allclose(last(other, tokens), whole, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(last(engine, tokens[3:]), whole, rtol=1e-4, atol=1e-4)
    other.close()


def test_a_fork_may_be_of_another_size(engine: LlamaCppEngine) -> None:
    other = engine.fork(LlamaCppOptions(n_ctx=64, n_seq_max=5, threads=1))
    assert (other.n_ctx, other.n_seq_max, engine.n_ctx, engine.n_seq_max) == (64, 5, 256, 2)
    assert last(other, [5, 6, 7], seq=4).shape == (engine.n_vocab,)
    with pytest.raises(InputError, match="no such sequence"):
        engine.decode([Run(4, [5], (0,))])
    other.close()


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_weights_stay_until_the_last_one_is_closed(base_gguf: Path, first: int) -> None:
    one = LlamaCppEngine(base_gguf, OPTIONS)
    engines = [one, one.fork(OPTIONS), one.fork(OPTIONS)]
    closed = engines.pop(first)
    closed.close()
    closed.close()
    with pytest.raises(InputError, match="closed"):
        closed.decode([Run(0, [5], (0,))])
    with pytest.raises(InputError, match="closed"):
        closed.fork(OPTIONS)
    found = [last(engine, [5, 6, 7]) for engine in engines]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-4)
    engines[0].close()
    assert engines[1].tokenize("two", special=False)
    np.testing.assert_allclose(last(engines[1], [5, 6, 7], seq=1), found[1], rtol=1e-4, atol=1e-4)
    assert engines[1]._forks.count == 1
    engines[1].close()
    assert engines[1]._forks.count == 0


def test_a_fork_that_fails_leaves_nothing(engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(engine._lib, "llama_init_from_model", lambda *_: None)
        with pytest.raises(HardwareError, match="no room"):
            engine.fork(OPTIONS)
    assert engine._forks.count == 1
    assert last(engine, [5, 6, 7]).shape == (engine.n_vocab,)


def test_clear_forgets_all_and_a_repetition_is_the_same_to_the_bit(engine: LlamaCppEngine) -> None:
    first = last(engine, [5, 6, 7, 8], seq=1)
    last(engine, [9, 10], seq=0)
    engine.clear()
    assert np.array_equal(last(engine, [5, 6, 7, 8], seq=1), first)
    with pytest.raises(InputError, match="no such prefix"):
        engine.copy_prefix(0, 1, 1)
    engine.close()
    with pytest.raises(InputError, match="closed"):
        engine.clear()


@pytest.mark.parametrize(
    ("threads", "weights", "gpu", "count"),
    [(1, 0, False, 0), (2, 0, False, 2), (3, 0, False, 3), (9, 0, False, 4), (4, teams.SMALL + 1, False, 0), (4, 0, True, 0)],
)  # fmt: skip
def test_how_many_pay(
    engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch, threads: int, weights: int, gpu: bool, count: int
) -> None:
    monkeypatch.setattr(engine, "weights", weights)
    monkeypatch.setattr(engine, "on_gpu", gpu)
    opened = teams.forks(engine, LlamaCppOptions(n_ctx=64, threads=threads))
    assert (opened is None) == (count == 0)
    if opened is not None:
        team = opened()
        assert len(team) == count and all(one.n_seq_max >= teams.SEQUENCES for one in team)
        for one in team:
            one.close()


def test_a_team_that_can_not_be_opened_whole_is_not_opened(
    engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[LlamaCppEngine] = []
    real = engine.fork

    def fork(options: LlamaCppOptions) -> LlamaCppEngine:
        if made:
            raise HardwareError("no room")
        made.append(real(options))
        return made[-1]

    monkeypatch.setattr(engine, "fork", fork)
    opened = teams.forks(engine, LlamaCppOptions(n_ctx=64, threads=2))
    assert opened is not None
    with pytest.raises(HardwareError, match="no room"):
        opened()
    assert made[0]._context is None and engine._forks.count == 1


TEXTS = [f"a table for {count} at {hour} pm, Ada Lovelace" for count in range(2, 8) for hour in range(1, 4)]


def test_a_team_answers_as_one_engine_in_order(bundles: Path) -> None:
    """All in f32, where no tie can turn; each record from another engine than the one before."""
    options = LlamaCppOptions(n_ctx=256, threads=3, n_seq_max=4, kv_type="f32")
    path = bundles / "restaurant-f32" / "model.gguf"
    with load(bundles / "restaurant-f32", threads=1, n_ctx=256, kv_type="f32") as alone:
        assert len(alone.schedulers()) == 1
        expected = [one.data for one in alone.extract_many(TEXTS)]
        about: Any = {"prompt": alone.prompt, "schema": alone.schema, "system": alone.system}
    engine = LlamaCppEngine(path, options)
    with Model(engine, team=teams.forks(engine, options), **about) as model:
        assert len(model.schedulers()) == 3
        assert [one.data for one in model.extract_many(TEXTS)] == expected
        assert model.extract(TEXTS[0]).data == expected[0]
    assert engine._forks.count == 0


@pytest.mark.slow
def test_thirty_two_threads_and_a_nonce_each(bundles: Path) -> None:
    """3,200 answers of the real model, each held to a schema that only its own nonce fits, and streams of many beside."""
    wrong: list[object] = []

    def ask(model: Model, thread: int) -> None:
        for number in range(100):
            nonce = f"{thread}/{number}"
            schema = {"type": "object", "properties": {"id": {"const": nonce}, "n": {"type": "integer", "maximum": 99}},
                      "required": ["id", "n"], "additionalProperties": False}  # fmt: skip
            found = model.extract(f"{nonce} comes with {number} people", schema)
            if found.failure or found.data["id"] != nonce:
                wrong.append((nonce, found))

    def many(model: Model) -> None:
        texts = [f"My name is Zo{number} and we are six" for number in range(200)]
        found = [one.failure or one.data for one in model.extract_many(texts)]
        if found != expected:
            wrong.append([pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1]])

    with load(bundles / "restaurant-f32", threads=2, n_parallel=16, n_ctx=256, kv_type="f32") as model:
        expected = [model.extract(f"My name is Zo{number} and we are six").data for number in range(200)]
        threads = [threading.Thread(target=ask, args=(model, index)) for index in range(32)]
        threads += [threading.Thread(target=many, args=(model,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
