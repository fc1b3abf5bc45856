"""Random requests at random times through a cache that is too small for them: each gets what the script says, or what it
asked for, and nothing is left behind. A plain list of cells keeps account beside the engine's own."""

from __future__ import annotations

import json
import random
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import pytest

from edgekit.errors import HardwareError, InputError
from edgekit.runtimes.constraint import compile_schema
from edgekit.runtimes.engine import Logits, Run
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.lanes import Lane
from edgekit.runtimes.request import Finish, Request
from edgekit.runtimes.sampling import Sampling
from edgekit.runtimes.scheduler import Scheduler
from edgekit.runtimes.ticket import Ticket
from tests.runtimes.serving import serving

SCHEMA = compile_schema(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 60}, "n": {"type": "integer"}},
        "required": ["name", "n"],
        "additionalProperties": False,
    }
)
LETTERS = "abc é😀.\n"
SHARED = ("", "The same for all: ", "The same for many of them, and longer than the others: ")


def script(prompt: str) -> str:
    """What the engine says: a text of the prompt's own, JSON where it asks for it, and a refusal where it begins so."""
    if "!" in prompt:
        raise InputError("no answer to this", found=prompt)
    rng = random.Random(zlib.crc32(prompt.encode()))
    text = prompt.rpartition("#")[2].partition(" ")[0] + "".join(rng.choices(LETTERS, k=rng.randrange(50)))
    return (
        json.dumps({"name": text[:60], "n": rng.randrange(1000)}, ensure_ascii=False, separators=(",", ":"))
        if "{" in prompt
        else text
    )


class Audited(FakeEngine):
    """Counts cells one by one, as a set."""

    def __init__(self, **options: Any) -> None:
        super().__init__(script, **options)
        self.cells: list[list[object]] = [[] for _ in range(self.n_seq_max)]
        self.most = 0

    def _audit(self) -> None:
        used = len({id(cell) for seq in self.cells for cell in seq})
        assert used == self._cells.used <= self.n_kv
        assert [len(seq) for seq in self.cells] == [len(seq) for seq in self._tokens]
        self.most = max(self.most, used)

    def decode(self, runs: Sequence[Run]) -> Logits:
        found = super().decode(runs)
        for run in runs:
            self.cells[run.seq] += [object() for _ in run.tokens]
        self._audit()
        return found

    def copy_prefix(self, src: int, dst: int, length: int) -> None:
        super().copy_prefix(src, dst, length)
        self.cells[dst] = self.cells[src][:length]
        self._audit()

    def drop(self, seq: int, start: int = 0) -> None:
        super().drop(seq, start)
        del self.cells[seq][max(0, start) :]
        self._audit()


@dataclass
class Case:
    """One request and what may come of it."""

    prompt: str
    request: Request
    stream: bool
    cancel_after: int | None
    """Pieces of text after which it is given up; -1: at once."""
    events: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    ticket: Ticket | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def expected(self, n_ctx: int) -> str:
        """The text, worked out from the script alone."""
        room = min(self.request.max_tokens, n_ctx - len(self.prompt.encode()) + 1)
        text = script(self.prompt).encode()[:room].decode(errors="replace")
        ends = [
            (text.index(stop) + len(stop), text.index(stop)) for stop in self.request.stop if stop in text
        ]
        return text[: min(ends)[1]] if ends else text


def make(rng: random.Random, number: int, n_ctx: int) -> Case:
    kind = rng.choice(("plain", "plain", "stop", "json", "sampled", "scored", "refused", "late"))
    mark = {"json": "{", "refused": "!"}.get(kind, "")
    prompt = f"{rng.choice(SHARED)}{mark}#{number} " + "x" * rng.choice((0, 1, 5, 30, 60))
    prompt = prompt[: n_ctx - 12]
    options: dict[str, Any] = {"max_tokens": rng.choice((1, 3, 20, 200))}
    if kind == "stop":
        options["stop"] = tuple(rng.sample(["a", "b ", "é", ".\n", "ca", "😀"], k=rng.randrange(1, 4)))
    elif kind == "json":
        options["grammar"] = SCHEMA
        options["trace"] = rng.random() < 0.5
    elif kind == "sampled":
        options["sampling"] = Sampling(temperature=0.5, seed=number, top_k=rng.choice((0, 1, 40)))
    elif kind == "scored":
        options |= {"answer": tuple(script(prompt).encode()[:10]) or (65,), "trace": True}
    elif kind == "late":
        options["deadline"] = 1e-9
    cancel = rng.choice((-1, 0, 1, 4)) if rng.random() < 0.15 else None
    return Case(prompt, Request(**options), rng.random() < 0.5, cancel)


def begin(
    scheduler: Scheduler, case: Case, lane: Lane | None = None, wake: Callable[[], object] = int
) -> None:
    def sink(event: Any) -> None:
        case.events.put(event)
        if not isinstance(event, str):
            case.done.set()
            wake()

    tokens = scheduler.engine.tokenize(case.prompt, special=False)
    case.ticket = scheduler.ticket(tokens, case.request, sink, stream=case.stream)
    case.ticket.lane = lane
    scheduler.submit(case.ticket)


def finish(scheduler: Scheduler, case: Case) -> None:
    """Read a case's events, give it up where it is told to, and check what came."""
    assert case.ticket is not None
    text, pieces, end = "", 0, None
    while end is None:
        if case.cancel_after is not None and pieces >= case.cancel_after:
            scheduler.cancel(case.ticket)
            break
        event = case.events.get(timeout=60)
        if isinstance(event, str):
            text, pieces = text + event, pieces + 1
        else:
            end = event
    if case.request.deadline is not None:
        assert end is None or (isinstance(end, HardwareError) and "deadline" in end.what), end
    elif "!" in case.prompt:
        assert end is None or (isinstance(end, InputError) and end.found == case.prompt), end
    elif case.request.answer:
        assert end is None or (isinstance(end, Finish) and end.trace is not None), end
        if isinstance(end, Finish) and end.trace is not None:
            assert end.trace.tokens[:-1] == list(case.request.answer)
            assert all(value > -0.01 for value in end.trace.logprobs[:-1]), f"{case!r} {end.trace!r}"
    elif isinstance(end, InputError) and case.request.grammar is not None:
        assert "more tokens than are left" in end.what
        assert scheduler.engine.n_ctx - len(case.prompt.encode()) < 40
    else:
        assert end is None or isinstance(end, Finish), end
        expected = case.expected(scheduler.engine.n_ctx)
        assert text == expected if end is not None else expected.startswith(text), (case, text, expected)


def run(seed: int, count: int) -> None:
    rng = random.Random(seed)
    n_ctx = rng.choice((128, 200))
    engine = Audited(
        n_ctx=n_ctx, n_seq_max=rng.choice((1, 2, 4, 7)), n_kv=rng.choice((n_ctx, n_ctx + 50, 3 * n_ctx))
    )
    cases = [make(rng, number, n_ctx) for number in range(count)]
    failures: list[BaseException] = []

    def guarded(work: Any, *arguments: Any) -> threading.Thread:
        def call() -> None:
            try:
                work(*arguments)
            except BaseException as error:  # noqa: BLE001 - told to the test's own thread
                failures.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        return thread

    def singles(scheduler: Scheduler, mine: list[Case], burst: int) -> None:
        for at in range(0, len(mine), burst):
            for case in mine[at : at + burst]:
                begin(scheduler, case)
            for case in mine[at : at + burst]:
                finish(scheduler, case)

    def stream(scheduler: Scheduler, mine: list[Case], window: int, leave: int) -> None:
        ready: SimpleQueue[None] = SimpleQueue()
        lane = scheduler.open_lane(window, lambda: ready.put(None))
        waiting: list[Case] = []
        for at, case in enumerate(mine[:leave]):
            case.cancel_after = None  # whoever reads a lane leaves all of it, or nothing
            if at % 9 == 0:
                scheduler.border(lane)
            while waiting and not lane.roomy:
                while not (waiting[0].done.is_set() or lane.hungry):
                    ready.get(timeout=60)
                if waiting[0].done.is_set():
                    finish(scheduler, waiting.pop(0))
            begin(scheduler, case, lane, lambda: ready.put(None))
            waiting.append(case)
        if leave >= len(mine):
            scheduler.seal(lane)
            for case in waiting:
                finish(scheduler, case)
        scheduler.close_lane(lane)

    with serving(engine, exact=rng.random() < 0.1) as scheduler:
        bursts = [rng.choice((1, 4, 30)) for _ in range(2)]
        threads = [guarded(singles, scheduler, cases[at::4], bursts[at]) for at in range(2)]
        for at in (2, 3):
            mine = cases[at::4]
            leave = rng.choice((len(mine), len(mine), len(mine) // 2))
            threads.append(guarded(stream, scheduler, mine, rng.choice((3, 12)), leave))
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads), f"seed {seed}: someone waits for ever"
        if failures:
            raise AssertionError(f"seed {seed}") from failures[0]
        settle(scheduler)
    assert engine._cells.used == 0


def settle(scheduler: Scheduler) -> None:
    """One more request, after which nobody is at work and nothing waits."""
    last = Case("#last", Request(), False, None)
    begin(scheduler, last)
    finish(scheduler, last)
    with scheduler._lock:
        scheduler._lock.wait_for(lambda: scheduler._idle, timeout=60)
        assert scheduler._slots.active() == []
        assert not scheduler._lanes.singles and not scheduler._lanes.ordered


@pytest.mark.parametrize("seed", range(12))
def test_random_requests(seed: int) -> None:
    run(seed, 60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1300))
def test_many_random_requests(seed: int) -> None:
    run(seed, 240)
