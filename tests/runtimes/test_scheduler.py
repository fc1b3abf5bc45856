"""Many answers at once: the same as alone, shared beginnings, room, fairness, ends of all kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.errors import HardwareError, InputError
from edgekit.runtimes.constraint import compile_schema
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions
from edgekit.runtimes.request import Finish, Request
from edgekit.runtimes.sampling import Sampling
from edgekit.runtimes.scheduler import Scheduler
from edgekit.runtimes.step import PROMPT_SHARE
from edgekit.runtimes.ticket import Sink
from tests.runtimes.serving import (
    Events,
    Failing,
    Panic,
    Watched,
    answer,
    echo,
    holds_33,
    serving,
    submit,
    wait,
)

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 40}, "n": {"type": "integer", "maximum": 99}},
    "required": ["name", "n"],
    "additionalProperties": False,
}


def in_json(prompt: str) -> str:
    return '{"name":"' + prompt[:40] + '","n":7}'


def all_of(scheduler: Scheduler, prompts: list[bytes], request: Request) -> list[str]:
    waiting = [submit(scheduler, list(prompt), request)[1] for prompt in prompts]
    return [wait(events)[0] for events in waiting]


def test_many_at_once_answer_as_alone() -> None:
    prompts = [f"prompt {index} ".encode() * (1 + index % 7) for index in range(40)]
    expected = [echo(prompt.decode()) for prompt in prompts]
    for count in (1, 3, 8):
        engine = Watched(echo, n_seq_max=count)
        with serving(engine) as scheduler:
            assert all_of(scheduler, prompts, Request()) == expected
        assert max(len({seq for seq, _ in runs}) for runs in engine.seen) == count


def test_under_a_schema_too() -> None:
    prompts = [f"n{index}".encode() for index in range(20)]
    with serving(FakeEngine(in_json, n_seq_max=4)) as scheduler:
        found = all_of(scheduler, prompts, Request(grammar=compile_schema(SCHEMA)))
    assert found == [in_json(prompt.decode()) for prompt in prompts]


def test_requests_join_between_steps() -> None:
    engine = Watched(echo, gated=True, n_seq_max=2)
    with serving(engine) as scheduler:
        _, first = submit(scheduler, list(b"first, a long one"), Request())
        engine.gate.release(3)
        for _ in range(4):
            engine.reached.acquire()
        _, second = submit(scheduler, list(b"second"), Request())
        engine.gate.release(10_000)
        assert wait(second)[0] == "<second>"
        assert wait(first)[0] == "<first, a long one>"
    assert any(len({seq for seq, _ in runs}) == 2 for runs in engine.seen)


def test_a_beginning_that_prompts_share_is_computed_once() -> None:
    shared = b"the same instructions for everyone, and examples: "
    prompts = [shared + f"{index:02}".encode() for index in range(12)]
    engine = FakeEngine("ok", n_seq_max=6)
    with serving(engine) as scheduler:
        all_of(scheduler, prompts, Request())
    assert engine.decoded <= len(shared) + 12 * (3 + 2)


def test_short_prompts_are_not_held_up_by_a_long_one() -> None:
    engine = Watched("okokokok", gated=True, n_seq_max=3, n_ctx=8000)
    with serving(engine) as scheduler:
        _, running = submit(scheduler, list(b"run"), Request(max_tokens=6), stream=True)
        engine.gate.release(1)
        assert running.get(timeout=60) == "o"
        _, long = submit(scheduler, [65] * 5000, Request())
        _, short = submit(scheduler, [66] * 20, Request(max_tokens=1))
        engine.gate.release(100_000)
        assert wait(short)[1].tokens == 1
        wait(long)
    sizes = [sum(count for _, count in runs) for runs in engine.seen]
    assert max(sizes[1:3]) <= PROMPT_SHARE + 1
    first_short = next(at for at, runs in enumerate(engine.seen) if len({seq for seq, _ in runs}) > 2)
    assert first_short <= 2


def test_a_full_cache_queues_and_sends_back() -> None:
    """Room for two of the four that want to run: all come to their end, none twice, none cut."""
    text = "x" * 100
    with serving(FakeEngine(text, n_seq_max=4, n_ctx=256, n_kv=256)) as scheduler:
        waiting = [
            submit(scheduler, [65 + index] * 40, Request(trace=True), stream=True)[1] for index in range(9)
        ]
        for events in waiting:
            found, finish = wait(events)
            assert (found, finish.reason, finish.tokens) == (text, "stop", 100)
            assert finish.trace is not None and len(finish.trace.tokens) == 101


def test_an_engine_that_is_full_before_the_account_is() -> None:
    full = HardwareError("the KV cache is full")
    tight = Failing(full, lambda runs: len({run.seq for run in runs}) > 2, n_seq_max=4)
    with serving(tight) as scheduler:
        prompts = [f"p{index}".encode() for index in range(8)]
        assert all_of(scheduler, prompts, Request()) == [echo(prompt.decode()) for prompt in prompts]


def test_an_error_of_the_engine_ends_those_it_met() -> None:
    with serving(Failing(InputError("could not decode"), holds_33, n_seq_max=1)) as scheduler:
        _, good = submit(scheduler, list(b"one"), Request())
        _, bad = submit(scheduler, [33], Request())
        _, after = submit(scheduler, list(b"two"), Request())
        assert wait(good)[0] == "<one>"
        with pytest.raises(InputError, match="could not decode"):
            wait(bad)
        assert wait(after)[0] == "<two>"


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), Panic("a panic")])
def test_a_bug_in_the_engine_reaches_everyone_and_the_thread_lives(error: BaseException) -> None:
    engine = Failing(error, n_seq_max=2)
    with serving(engine) as scheduler:
        waiting = [submit(scheduler, [65 + at], Request())[1] for at in range(4)]
        for events in waiting:
            with pytest.raises(RuntimeError, match=f"{type(error).__name__}: {error}"):
                wait(events)
        engine.bad = lambda runs: False
        assert answer(scheduler, list(b"x"), Request())[0] == "<x>"


def test_cancelling_frees_the_slot_within_one_step() -> None:
    engine = Watched(lambda prompt: prompt * 500, gated=True, n_seq_max=1)
    with serving(engine) as scheduler:
        ticket, events = submit(scheduler, list(b"ab"), Request(), stream=True)
        engine.gate.release(1)
        assert events.get(timeout=60) == "a"
        engine.reached.acquire()
        engine.reached.acquire()  # in the middle of the second step
        scheduler.cancel(ticket)
        _, other = submit(scheduler, list(b"z"), Request(max_tokens=1))
        engine.gate.release(2)
        assert wait(other)[0] == "z"
    assert len(engine.seen) == 3
    assert events.empty() or events.get() == "b"


def test_cancelled_in_the_queue_it_is_never_computed() -> None:
    engine = Watched(echo, gated=True, n_seq_max=1)
    with serving(engine) as scheduler:
        _, first = submit(scheduler, list(b"one"), Request())
        ticket, _ = submit(scheduler, list(b"two, which is longer"), Request())
        scheduler.cancel(ticket)
        engine.gate.release(1000)
        assert wait(first)[0] == "<one>"
        assert answer(scheduler, list(b"3"), Request())[0] == "<3>"
    assert engine.decoded < 20


def test_deadlines() -> None:
    engine = Watched(echo, gated=True, n_seq_max=1)
    with serving(engine) as scheduler:
        _, late = submit(scheduler, list(b"one"), Request(deadline=1e-9))
        _, waiting = submit(scheduler, list(b"two"), Request(deadline=1e-9))
        _, fine = submit(scheduler, list(b"three"), Request(deadline=1000.0))
        engine.gate.release(1000)
        for events in (late, waiting):
            with pytest.raises(HardwareError, match="deadline"):
                wait(events)
        assert wait(fine)[0] == "<three>"
    with pytest.raises(InputError, match="deadline"):
        Request(deadline=0)


def test_stopping_fails_what_is_unfinished() -> None:
    engine = Watched(echo, gated=True, n_seq_max=1)
    scheduler = Scheduler(engine)
    waiting = [submit(scheduler, list(b"x"), Request())[1] for _ in range(3)]
    engine.reached.acquire()
    engine.gate.release(1000)
    scheduler.stop()
    scheduler.stop()
    ends = [events.get(timeout=60) for events in waiting]
    assert isinstance(ends[-1], InputError) and "closed" in str(ends[-1])
    with pytest.raises(InputError, match="closed"):
        submit(scheduler, list(b"x"), Request())
    engine.close()


def test_singles_and_an_ordered_stream_take_turns() -> None:
    engine = Watched(echo, gated=True, n_seq_max=1)
    order: list[str] = []
    with serving(engine) as scheduler:
        lane = scheduler.open_lane(100, lambda: None)
        tickets = []
        for index in range(4):
            ticket = scheduler.ticket(list(b"l"), Request(max_tokens=1), _noting(order, f"lane {index}"))
            ticket.lane = lane
            tickets.append(ticket)
        scheduler.submit(*tickets)
        scheduler.seal(lane)
        singles = [
            scheduler.ticket(list(b"s"), Request(max_tokens=1), _noting(order, f"single {index}"))
            for index in range(4)
        ]
        scheduler.submit(*singles)
        _, last = submit(scheduler, list(b"e"), Request(max_tokens=1))
        engine.gate.release(1000)
        wait(last)
    assert [name for name in order if "lane" in name] == [f"lane {index}" for index in range(4)]
    assert [name for name in order if "single" in name] == [f"single {index}" for index in range(4)]
    assert {name.split()[0] for name in order[1:3]} == {"lane", "single"}


def _noting(order: list[str], name: str) -> Sink:
    def sink(event: str | Finish | BaseException) -> None:
        if isinstance(event, Finish):
            order.append(name)

    return sink


def test_sampling_stops_and_penalties_side_by_side() -> None:
    with serving(FakeEngine(echo, n_seq_max=4)) as scheduler:
        first = submit(scheduler, list(b"one two"), Request(stop=(" ",)))[1]
        second = submit(scheduler, list(b"abc"), Request(sampling=Sampling(temperature=0.5, seed=1)))[1]
        third = submit(scheduler, list(b"abcd"), Request(sampling=Sampling(repetition_penalty=1.5)))[1]
        fourth = submit(scheduler, list(b"json"), Request(grammar=compile_schema({"const": "json"})))[1]
        assert wait(first)[0] == "<one"
        assert wait(second)[0] == "<abc>"
        assert wait(third)[0].startswith("<")
        assert wait(fourth)[0] == '"json"'


def test_a_schema_that_the_context_can_not_hold() -> None:
    wide = {"const": "x" * 300}
    with serving(FakeEngine(echo, n_ctx=200)) as scheduler:
        with pytest.raises(InputError, match="more tokens than are left"):
            answer(scheduler, list(b"x"), Request(grammar=compile_schema(wide)))
        assert answer(scheduler, list(b"x"), Request())[0] == "<x>"


def test_scores_of_given_answers() -> None:
    """FakeEngine is all but certain of its script: what it says is likely, what it doesn't is not."""
    with serving(FakeEngine("yes", n_seq_max=2)) as scheduler:
        said = answer(scheduler, list(b"q"), Request(answer=tuple(b"yes"), trace=True))[1].trace
        other = answer(scheduler, list(b"q"), Request(answer=tuple(b"no"), trace=True))[1].trace
        short = answer(scheduler, list(b"q"), Request(answer=tuple(b"ye"), trace=True))[1].trace
    assert said is not None and other is not None and short is not None
    assert len(said.logprobs) == 4 and sum(said.logprobs) > -0.01
    assert sum(other.logprobs) < -10
    assert sum(short.logprobs[:2]) > -0.01 and short.logprobs[2] < -5


@pytest.fixture(scope="module")
def engine(bundles: Path) -> Iterator[LlamaCppEngine]:
    # Nothing is rounded, so that the order of a batch's places can't turn a near tie.
    options = LlamaCppOptions(n_ctx=512, threads=1, n_seq_max=6, n_kv=1024, kv_type="f32")
    engine = LlamaCppEngine(bundles / "restaurant-f32" / "model.gguf", options)
    yield engine
    engine.close()


PROMPTS = [
    "Extract restaurant: people, date, time, first_name, last_name\n" + text
    for text in ("two on friday", "a table for Ada Lovelace at 7:30 pm", "six people", "hello", "cancel it")
]


def test_a_real_model_answers_alike_alone_and_in_a_batch(engine: LlamaCppEngine) -> None:
    prompts = [engine.tokenize(text, special=False) for text in PROMPTS] * 3
    request = Request(max_tokens=24)
    with serving(engine) as scheduler:
        alone = [answer(scheduler, prompt, request)[0] for prompt in prompts]
    with serving(engine) as scheduler:
        together = [submit(scheduler, prompt, request)[1] for prompt in prompts]
        found = [wait(events)[0] for events in together]
    assert found == alone


def test_its_cache_is_shared_and_given_back(engine: LlamaCppEngine) -> None:
    """More than the cache holds at once, in requests that each fit."""
    prompt = engine.tokenize("once upon a time " * 40, special=False)[:150]
    with serving(engine) as scheduler:
        waiting: list[Events] = [
            submit(scheduler, [300 + index, *prompt], Request(max_tokens=60))[1] for index in range(10)
        ]
        for events in waiting:
            assert wait(events)[1].tokens > 0
