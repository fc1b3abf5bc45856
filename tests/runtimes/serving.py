"""A scheduler over an engine that outlives it, and whole answers from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from edgekit.runtimes.engine import Engine, Logits, Run
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.request import Finish, Request
from edgekit.runtimes.scheduler import Scheduler
from edgekit.runtimes.ticket import Ticket

Events = SimpleQueue[str | Finish | BaseException]
Answer = tuple[str, Finish]


def echo(prompt: str) -> str:
    """A script that answers with the prompt."""
    return f"<{prompt}>"


class Watched(FakeEngine):
    """Notes every call's runs; where it is gated it computes them when it is let to, after doing ``before``."""

    def __init__(self, script: Any, *, gated: bool = False, **options: Any) -> None:
        super().__init__(script, **options)
        self.seen: list[list[tuple[int, int]]] = []
        self.gate, self._gated = threading.Semaphore(0), gated
        self.reached = threading.Semaphore(0)
        self.before: Callable[[], object] = int

    def decode(self, runs: Sequence[Run]) -> Logits:
        self.reached.release()
        if self._gated:
            self.gate.acquire()
        self.before()
        self.seen.append([(run.seq, len(run.tokens)) for run in runs])
        return super().decode(runs)


class Failing(FakeEngine):
    """Raises ``error`` from every call that ``bad`` says so of."""

    def __init__(
        self, error: BaseException, bad: Callable[[Sequence[Run]], bool] = lambda runs: True, **options: Any
    ) -> None:
        super().__init__(echo, **options)
        self._error, self.bad = error, bad

    def decode(self, runs: Sequence[Run]) -> Logits:
        if self.bad(runs):
            raise self._error
        return super().decode(runs)


class Panic(BaseException):
    """As a library's that was written in Rust: no ``Exception``."""


def holds_33(runs: Sequence[Run]) -> bool:
    """Whether the token 33 is to be computed."""
    return any(33 in run.tokens for run in runs)


@contextmanager
def serving(engine: Engine, **options: Any) -> Iterator[Scheduler]:
    """A scheduler that leaves the engine open, empty for the next one."""
    scheduler = Scheduler(engine, **options)
    try:
        yield scheduler
    finally:
        scheduler.stop()


def submit(
    scheduler: Scheduler, prompt: Sequence[int], request: Request, **options: Any
) -> tuple[Ticket, Events]:
    """A request on its way, and where its events come."""
    events: Events = SimpleQueue()
    ticket = scheduler.ticket(prompt, request, events.put, **options)
    scheduler.submit(ticket)
    return ticket, events


def wait(events: Events) -> Answer:
    """The whole answer; raises what it failed with."""
    text = ""
    while True:
        event = events.get(timeout=60)
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, Finish):
            return text, event
        assert event
        text += event


def answer(scheduler: Scheduler, prompt: Sequence[int], request: Request, **options: Any) -> Answer:
    """One answer."""
    return wait(submit(scheduler, prompt, request, **options)[1])


def ask(engine: Engine, prompt: str, **options: Any) -> Answer:
    """One answer from a scheduler of its own."""
    with serving(engine) as scheduler:
        return answer(scheduler, engine.tokenize(prompt, special=False), Request(**options), stream=True)
