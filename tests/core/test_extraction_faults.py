"""Streams of extractions in trouble: mostly no texts, all late, engines that fail, models that nobody closes."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import HardwareError, InputError
from edgekit.extraction import AHEAD
from edgekit.model import Model
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.scheduler import Scheduler
from edgekit.runtimes.ticket import Ticket
from tests.core.test_extraction import SCHEMA, fake, named
from tests.runtimes.serving import Failing


def within_a_minute(work: Callable[[], Any]) -> Any:
    """What ``work`` returns, in a thread of its own: a wait for ever is a failure, not a hanging run."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(60)
    assert found, "it waits for ever"
    return found[0]


def team_of(count: int) -> Callable[[], list[FakeEngine]]:
    return lambda: [FakeEngine(named, n_seq_max=2 + index) for index in range(count)]


@pytest.mark.parametrize("team", [None, team_of(3)])
@pytest.mark.parametrize("empty", [5, 23, 24, 40, 200])
def test_a_text_before_many_that_are_none(empty: int, team: Any) -> None:
    texts = ["first", *[""] * empty, "last", *[" "] * empty]

    def extract() -> list[Any]:
        with fake(team=team) as model:
            return [one.data and one.data["name"] for one in model.extract_many(texts)]

    assert within_a_minute(extract) == ["first", *[None] * empty, "last", *[None] * empty]


def test_all_late_at_once_and_none_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is on its way fails at the same time, and is read before the scheduler has counted it off."""
    counted = threading.Event()
    real = Scheduler._count_off

    def slowly(scheduler: Scheduler, ticket: Ticket) -> None:
        counted.wait(0.01)
        real(scheduler, ticket)

    monkeypatch.setattr(Scheduler, "_count_off", slowly)
    count = 4 * AHEAD * 4

    def extract() -> list[Any]:
        with fake() as model:
            results = model.extract_many((f"text {index}" for index in range(count)), deadline=1e-9)
            found = [one.failure and one.failure.code for one in results]
            counted.set()
            return found

    assert within_a_minute(extract) == ["deadline"] * count


def test_the_last_ones_sent_back_by_a_full_cache_are_not_lost() -> None:
    """Nothing more is fed and nothing waits when the cache turns out too small for those that are at work."""
    texts = [f"{index} " + "x" * 50 for index in range(3)]

    def extract() -> list[str]:
        with fake(n_ctx=180, n_kv=300) as model:
            return [one.data["name"] for one in model.extract_many(texts)]

    assert within_a_minute(extract) == texts


def test_an_error_of_one_engine_of_a_team_comes_through() -> None:
    lost = HardwareError("the device is lost")

    def team() -> list[FakeEngine]:
        return [FakeEngine(named, n_seq_max=2), Failing(lost, n_seq_max=2)]

    def extract() -> list[str]:
        seen: list[str] = []
        with fake(team=team) as model:
            with pytest.raises(HardwareError, match="the device is lost"):
                seen.extend(one.data["name"] for one in model.extract_many(map(str, range(50))))
            seen.append(model.extract("by itself").data["name"])
            return seen

    assert within_a_minute(extract) == ["0", "by itself"]


def test_a_closed_model_opens_no_team() -> None:
    opened: list[FakeEngine] = []

    def team() -> list[FakeEngine]:
        opened.extend(team_of(2)())
        return opened

    model = fake(team=team)
    model.close()
    with pytest.raises(InputError, match="closed"):
        list(model.extract_many(["x"]))
    with pytest.raises(InputError, match="closed"):
        model.extract("x")
    assert not opened


def test_closing_closes_the_team() -> None:
    engines: list[FakeEngine] = []

    def team() -> list[FakeEngine]:
        engines.extend(team_of(2)())
        return engines

    with fake(team=team) as model:
        stream = model.extract_many(f"{index}" for index in range(1000))
        next(stream)
    assert [engine._closed for engine in engines] == [True, True]
    with pytest.raises(InputError, match="closed"):
        list(stream)


def test_a_model_that_nobody_closed_goes_with_its_last_reader() -> None:
    engine = FakeEngine(named, n_seq_max=2)
    model = Model(engine, prompt="{text}", schema=SCHEMA)
    stream = model.extract_many(f"{index}" for index in range(100))
    assert next(stream).data == {"name": "0"}
    scheduler, here = model._scheduler, weakref.ref(model)
    del model
    gc.collect()
    assert next(stream).data == {"name": "1"} and not engine._closed
    del stream
    gc.collect()
    assert here() is None and engine._closed
    assert scheduler._thread is not None and not scheduler._thread.is_alive()


def test_a_model_that_the_scheduler_s_own_thread_collects() -> None:
    """As when the last reference is part of a cycle, which any thread may come upon."""
    engine = FakeEngine(named, n_seq_max=2)
    model: Model | None = Model(engine, prompt="{text}", schema=SCHEMA)
    assert model is not None
    holder = [model]
    scheduler = model._scheduler
    over = threading.Event()

    def collected(_: object) -> None:
        holder.clear()
        over.set()

    request = model.request({})
    ticket = scheduler.ticket(list(b"x"), request, collected)
    del model
    scheduler.submit(ticket)
    assert over.wait(60)
    assert scheduler._thread is not None
    scheduler._thread.join(60)
    assert engine._closed and not scheduler._thread.is_alive()


LEAVING = """
import sys, threading
import edgekit.errors
model = edgekit.load(sys.argv[1], threads=2)
begun = threading.Barrier(5)
def ask(number):
    stream = model.stream(f"{number} tell me more", max_tokens=400, temperature=1.0, seed=number)
    next(stream)
    begun.wait()
    try:
        for _ in stream:
            pass
    except edgekit.errors.InputError as error:
        assert "closed" in str(error)
for number in range(4):
    threading.Thread(target=ask, args=(number,), daemon=True).start()
begun.wait()
results = model.extract_many("a table for %d" % number for number in range(1000))
next(results)
"""


def test_the_interpreter_may_end_in_mid_answer(bundles: Path) -> None:
    """With answers in the making for threads that nobody waits for, and a stream half read."""
    command = [sys.executable, "-c", LEAVING, str(bundles / "restaurant-q8_0")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
