"""What one request, lane or bug does to the others: nothing that they can't live with, and never a wait for ever."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from edgekit.aio import to_loop
from edgekit.errors import InputError
from edgekit.runtimes.constraint import compile_schema
from edgekit.runtimes.engine import Run
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.request import Finish, Request
from edgekit.runtimes.sampling import Sampling
from edgekit.runtimes.scheduler import Scheduler
from tests.runtimes.serving import Events, Failing, Watched, answer, echo, holds_33, serving, submit, wait


def test_a_bug_in_one_request_is_its_own() -> None:
    """Something that no check foresaw, here in the constructor of its sampler."""
    engine = Watched(echo, n_seq_max=4, gated=True)
    broken = Sampling(temperature=1.0)
    object.__setattr__(broken, "seed", [1])
    late = Sampling(temperature=1.0, top_k=3)
    object.__setattr__(late, "top_k", "x")
    with serving(engine) as scheduler:
        _, good = submit(scheduler, list(b"good"), Request())
        _, first = submit(scheduler, list(b"bad"), Request(sampling=broken))
        _, second = submit(scheduler, list(b"bad too"), Request(sampling=late))
        _, after = submit(scheduler, list(b"after"), Request())
        engine.gate.release(1000)
        for events in (first, second):
            with pytest.raises(RuntimeError, match="TypeError"):
                wait(events)
        assert (wait(good)[0], wait(after)[0]) == ("<good>", "<after>")


def test_an_error_of_the_engine_over_one_of_several_is_that_one_s() -> None:
    engine = Watched({"one": "1", "two": "22"}, n_seq_max=4, gated=True)
    with serving(engine) as scheduler:
        waiting = [submit(scheduler, list(text), Request())[1] for text in (b"one", b"none", b"two", b"one")]
        engine.gate.release(1000)
        assert wait(waiting[0])[0] == "1"
        with pytest.raises(InputError, match="no answer") as error:
            wait(waiting[1])
        assert error.value.found == "none"
        assert [wait(events)[0] for events in waiting[2:]] == ["22", "1"]


def test_the_fake_engine_is_as_before_after_an_error() -> None:
    engine = FakeEngine({"ab": "x"}, n_seq_max=2)
    with pytest.raises(InputError, match="no answer"):
        engine.decode([Run(0, list(b"ab"), (1,)), Run(1, list(b"c"), (0,))])
    assert engine.decode([Run(0, list(b"ab"), (1,))])[0].argmax() == ord("x")
    assert (engine._tokens, engine._cells.used) == ([list(b"ab"), []], 2)


def test_a_lane_outlives_a_bug_that_met_others() -> None:
    with serving(Failing(ZeroDivisionError("a bug"), holds_33)) as scheduler:
        lane = scheduler.open_lane(4, lambda: None)
        with pytest.raises(RuntimeError, match="a bug"):
            answer(scheduler, [33], Request())
        events: Events = Events()
        ticket = scheduler.ticket(list(b"x"), Request(), events.put)
        ticket.lane = lane
        scheduler.submit(ticket)
        scheduler.seal(lane)
        assert wait(events)[0] == "<x>"


@pytest.mark.parametrize("label", ["yes, sir", "no"])
def test_a_scored_answer_survives_being_sent_back(label: str) -> None:
    """Others hold its prompt and some of its answer; all of its own is scored again all the same."""
    prompt = list(b"a question that all of them share: ")
    request = Request(answer=tuple(label.encode()), trace=True)
    with serving(FakeEngine("yes", n_seq_max=4, n_ctx=200, n_kv=200)) as scheduler:
        alone = answer(scheduler, prompt, request)[1].trace
    engine = Watched("yes", n_seq_max=4, n_ctx=200, n_kv=200, gated=True)
    with serving(engine) as scheduler:
        waiting = [submit(scheduler, prompt, request)[1] for _ in range(3)]
        real, left = scheduler._slots.fits, [True, False, False]

        def cramped(count: int) -> bool:
            return real(count) and (not left or left.pop(0))

        scheduler._slots.fits = cramped  # type: ignore[method-assign]
        engine.gate.release(1000)
        found = [wait(events)[1].trace for events in waiting]
    assert alone is not None and found == [alone] * 3


def test_a_long_prompt_gets_its_turn_beside_a_stream_that_never_ends() -> None:
    """It needs nearly all of the cache, of which the stream's small requests always hold a part."""
    engine = FakeEngine(lambda prompt: "ok" * (len(prompt) % 7), n_seq_max=4, n_ctx=400, n_kv=400)
    numbers = itertools.count()
    at_long: list[int] = []
    events, over = Events(), Events()
    with serving(engine) as scheduler:
        lane = scheduler.open_lane(8, lambda: None)
        long = scheduler.ticket([65] * 330, Request(), events.put)

        def feed(event: object) -> None:
            if not isinstance(event, Finish):
                return
            number = next(numbers)
            if number == 30:
                scheduler.submit(long)
            if long.over and not at_long:
                at_long.append(number)
            if not at_long and number < 2000:
                prompt = [66 + number % 50] * (20 + number % 23)
                ticket = scheduler.ticket(prompt, Request(), feed)
                ticket.lane = lane
                scheduler.submit(ticket)
            elif number < 2010:
                over.put("")

        for _ in range(8):
            feed(Finish("stop", 0, 0, 0.0, 0.0))
        over.get(timeout=60)
        assert wait(events)[0] == "ok"
    assert at_long and at_long[0] < 100


def test_what_an_idle_slot_holds_keeps_nobody_out() -> None:
    """The slot that shares a beginning holds a long rest, which is nobody's any more."""
    engine = Watched(lambda prompt: "x" * 60, n_seq_max=2, n_ctx=300, n_kv=300, gated=True)
    with serving(engine) as scheduler:
        engine.gate.release(1)
        answer(scheduler, [65] * 20 + [66] * 130, Request(max_tokens=1))
        _, long = submit(scheduler, [67] * 20, Request(max_tokens=50))
        engine.gate.release(1)
        for _ in range(2):
            engine.reached.acquire()
        _, next_one = submit(scheduler, [65] * 20 + [68] * 130, Request(max_tokens=5))
        engine.gate.release(1000)
        wait(next_one)
        wait(long)
    assert any(len({seq for seq, _ in runs}) == 2 for runs in engine.seen)


def lane_of(scheduler: Scheduler, prompts: Sequence[bytes | None]) -> list[Events]:
    lane = scheduler.open_lane(100, lambda: None)
    waiting = []
    for prompt in prompts:
        if prompt is None:
            scheduler.border(lane)
            continue
        events = Events()
        ticket = scheduler.ticket(list(prompt), Request(max_tokens=3), events.put)
        ticket.lane = lane
        scheduler.submit(ticket)
        waiting.append(events)
    scheduler.seal(lane)
    return waiting


def test_behind_a_border_all_is_as_if_new() -> None:
    """Also how much the lane's prompts share: what came before the border shares less."""
    before = [b"instructions: %d, and so on" % index for index in range(6)]
    behind = [b"instructions: Book %d on %d" % (index, index * 7) for index in range(12)]

    def steps(prompts: list[bytes | None]) -> list[list[tuple[int, int]]]:
        engine = Watched(echo, n_seq_max=3, gated=True)
        engine.gate.release(10_000)
        with serving(engine) as scheduler:
            for events in lane_of(scheduler, prompts):
                wait(events)
        return engine.seen

    alone = steps([None, *behind])
    assert steps([None, *before, None, *behind])[-len(alone) :] == alone


def test_stopping_twice_waits_twice() -> None:
    """The second to stop it may close the engine next, so the thread must be gone for it too."""
    engine = Watched(echo, gated=True)
    scheduler = Scheduler(engine)
    _, events = submit(scheduler, list(b"x"), Request())
    engine.reached.acquire()
    stopped: list[bool] = []

    def stop() -> None:
        scheduler.stop()
        assert scheduler._thread is not None
        stopped.append(not scheduler._thread.is_alive())

    threads = [threading.Thread(target=stop) for _ in range(2)]
    for thread in threads:
        thread.start()
    threads[1].join(0.2)
    engine.gate.release(10)
    for thread in threads:
        thread.join()
    assert stopped == [True, True]
    with pytest.raises(InputError, match="closed"):
        wait(events)


def test_a_loop_that_closes_meanwhile_hurts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look whether it is open and the call."""
    heard: list[Any] = []

    async def sink() -> Any:
        return to_loop(heard.append)

    loop = asyncio.new_event_loop()
    call = loop.run_until_complete(sink())
    loop.close()
    with monkeypatch.context() as patched:
        patched.setattr(loop, "is_closed", lambda: False)
        call("late")
    assert heard == []


@pytest.mark.parametrize("parallel", [-1, "2", 1.5])
def test_answers_at_once_are_a_count(parallel: Any) -> None:
    with pytest.raises(InputError, match="parallel"):
        Scheduler(FakeEngine("x"), parallel=parallel)


def test_a_matcher_is_not_its_predecessor_s() -> None:
    """Many answers under one grammar, some cut off in the middle: each starts at the start."""
    grammar = compile_schema({"type": "string", "maxLength": 30})
    engine = FakeEngine(lambda prompt: f'"{prompt}"', n_seq_max=3)
    with serving(engine) as scheduler:
        for index in range(120):
            cut = index % 3 == 1
            text = f"{index}" * 3
            request = Request(grammar=grammar, max_tokens=3 if cut else 60)
            expected = f'"{text}"'[: 3 if cut else None]
            assert answer(scheduler, list(text.encode()), request)[0] == expected


def test_in_a_forked_process_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread is not there: whoever waited for it would wait for ever."""
    engine = FakeEngine(echo)
    with serving(engine) as scheduler:
        assert answer(scheduler, list(b"x"), Request())[0] == "<x>"
        with monkeypatch.context() as child:
            child.setattr("os.getpid", lambda: 1)
            with pytest.raises(InputError, match="forked"):
                submit(scheduler, list(b"x"), Request())
            with pytest.raises(InputError, match="forked"):
                scheduler.open_lane(1, lambda: None)
