"""Many texts through the model: in order, bounded, the same to the bit from every epoch on; what fails says why."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import InputError
from edgekit.extraction import AHEAD
from edgekit.model import Model, load
from edgekit.runtimes.fake import FakeEngine

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": ["string", "null"], "maxLength": 60}},
    "required": ["name"],
    "additionalProperties": False,
}


def named(prompt: str) -> str:
    return '{"name":"' + prompt[:60] + '"}'


def fake(**options: Any) -> Model:
    team = options.pop("team", None)
    engine = FakeEngine(named, n_seq_max=4, **options)
    return Model(engine, prompt="{text}", schema=SCHEMA, team=team)


def test_in_order_whatever_their_lengths() -> None:
    texts = [f"{index} " * (1 + index * 7 % 20) for index in range(100)]
    with fake() as model:
        found = [one.data["name"] for one in model.extract_many(texts)]
    assert found == [text[:60] for text in texts]


def test_dealt_among_a_team_in_order() -> None:
    def team() -> list[FakeEngine]:
        return [FakeEngine(named, n_seq_max=2 + index) for index in range(3)]

    texts = [f"{index} " * (1 + index * 7 % 20) for index in range(100)]
    with fake(team=team) as model:
        assert [one.data["name"] for one in model.extract_many(texts)] == [text[:60] for text in texts]
        assert model.extract("by itself").data == {"name": "by itself"}


def test_reads_only_so_far_ahead() -> None:
    taken = itertools.count()
    with fake() as model:
        results = model.extract_many(f"text {next(taken)}" for _ in itertools.count())
        for _ in range(10):
            next(results)
        results.close()
    assert next(taken) <= 10 + 2 * AHEAD * 4


def test_a_slow_source_holds_up_nothing_that_it_gave() -> None:
    """The source gives its second text only after the first one's result was seen."""
    seen = threading.Event()

    def source() -> Iterator[str]:
        yield "first"
        assert seen.wait(60)
        yield "second"

    found: list[Any] = []

    def read(model: Model) -> None:
        found.extend(one.data["name"] for one in model.extract_many(source()))

    with fake() as model:
        thread = threading.Thread(target=read, args=(model,))
        thread.start()
        assert model.extract("meanwhile").data == {"name": "meanwhile"}
        seen.set()
        thread.join()
    assert found == ["first", "second"]


def test_what_fails_says_why_and_the_others_go_on() -> None:
    texts: list[Any] = ["one", "", " \n", "x\ud800", None, "y" * 400, "two"]
    with fake(n_ctx=200) as model:
        found = list(model.extract_many(texts))
    codes = [one.failure.code if one.failure else None for one in found]
    assert codes == [None, "empty", "empty", "encoding", "encoding", "too_long", None]
    assert all(one.needs_review == (one.failure is not None) for one in found)
    assert [found[0].data, found[-1].data] == [{"name": "one"}, {"name": "two"}]
    with fake() as model:
        cut = next(model.extract_many(["a long one"], max_tokens=12))
        late = next(model.extract_many(["in time?"], deadline=1e-9))
    assert cut.truncated and cut.data is None and cut.failure and cut.failure.code == "truncated"
    assert late.failure and late.failure.code == "deadline"


def test_a_schema_that_fits_no_context_is_a_failure_of_the_record() -> None:
    with fake(n_ctx=100) as model:
        found = model.extract("x", {"const": "y" * 200})
    assert (
        found.failure
        and found.failure.code == "too_long"
        and "more tokens than are left" in found.failure.message
    )


def test_an_error_of_the_source_comes_through() -> None:
    def source() -> Iterator[str]:
        yield "one"
        raise KeyError("mine")

    with fake() as model:
        with pytest.raises(KeyError, match="mine"):
            list(model.extract_many(source()))
        assert model.extract("after").data == {"name": "after"}
        with pytest.raises(InputError, match="texts are several"):
            next(model.extract_many("one text"))


def test_left_in_the_middle_the_next_ones_run() -> None:
    with fake() as model:
        kept = model.extract_many(f"kept {index}" for index in range(300))
        assert next(kept).data == {"name": "kept 0"}
        for _ in range(3):
            dropped = model.extract_many(f"dropped {index}" for index in range(300))
            next(dropped)
            dropped.close()
        assert [one.data["name"] for one in model.extract_many(["a", "b"])] == ["a", "b"]
        pairs = zip(model.extract_many(["x"] * 50), model.extract_many(["y"] * 50), strict=True)
        assert all((one.data["name"], other.data["name"]) == ("x", "y") for one, other in pairs)
        assert [one.data["name"] for one in kept] == [f"kept {index}" for index in range(1, 300)]


def test_confidence_and_its_threshold() -> None:
    with fake() as model:
        found = model.extract("sure")
        assert set(found.confidence) == {"name"} and 0.9 < found.confidence["name"] <= 1
        assert 0.9 < found.overall <= 1 and not found.calibrated and not found.needs_review
        assert model.extract("sure", min_confidence=1.0).needs_review
        with pytest.raises(InputError, match="min_confidence"):
            model.extract("sure", min_confidence=1.5)


@dataclass
class Named:
    """A class as a schema."""

    name: str | None


def test_a_class_as_the_schema() -> None:
    with fake() as model:
        assert model.extract("Ada", Named).data == Named("Ada")
        assert [one.data for one in model.extract_many(["a", "b"], Named)] == [Named("a"), Named("b")]


UTTERANCES = [
    f"a table for {count} people at {hour}:30 pm, Ada Lovelace"
    for count in range(2, 8)
    for hour in range(1, 9)
]


def test_the_same_bits_from_every_epoch_on(bundles: Path) -> None:
    """Also dealt among a team of engines, which two threads open for so small a model."""
    with load(bundles / "restaurant-q8_0", threads=2) as model:
        model.epoch = 16
        assert len(model.schedulers()) == 2
        whole = [(one.text, one.confidence, one.overall) for one in model.extract_many(UTTERANCES)]
        rest = [(one.text, one.confidence, one.overall) for one in model.extract_many(UTTERANCES[16:])]
    assert rest == whole[16:]
    with load(bundles / "restaurant-q8_0", threads=2) as model:
        model.epoch = 16
        again = [(one.text, one.confidence, one.overall) for one in model.extract_many(UTTERANCES[32:])]
    assert again == whole[32:]


def test_a_thread_each_and_no_foreign_answers(bundles: Path) -> None:
    """Each text holds a name of its own that its answer must return, and a schema that only takes this one."""
    foreign: list[object] = []

    def ask(model: Model, thread: int) -> None:
        for number in range(4):
            nonce = f"Zo{thread}x{number}"
            found = model.extract(f"My name is {nonce} Miller and we are six")
            others = {f"Zo{other}x" for other in range(8)} - {f"Zo{thread}x"}
            if found.failure or any(other in found.text for other in others):
                foreign.append(found)
            said = model.generate(f"say {nonce}", regex=f"{nonce}-[a-z]{{3}}")
            if not said.startswith(nonce):
                foreign.append(said)

    with load(bundles / "restaurant-q8_0", threads=1) as model:
        threads = [threading.Thread(target=ask, args=(model, index)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not foreign


def test_thirty_two_threads_and_a_nonce_each() -> None:
    """3,200 requests over the fake engine: every answer is its own request's."""
    foreign: list[object] = []

    def ask(model: Model, thread: int) -> None:
        for number in range(100):
            nonce = f"{thread}/{number}"
            if model.extract(nonce).data != {"name": nonce}:
                foreign.append(nonce)

    with Model(FakeEngine(named, n_seq_max=16), prompt="{text}", schema=SCHEMA) as model:
        threads = [threading.Thread(target=ask, args=(model, index)) for index in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not foreign
