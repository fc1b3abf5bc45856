"""A scheduler over an engine that outlives it, and whole answers from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from edgekit.runtimes.engine import Engine
from edgekit.runtimes.request import Finish, Request
from edgekit.runtimes.scheduler import Scheduler
from edgekit.runtimes.ticket import Ticket

Events = SimpleQueue[str | Finish | BaseException]
Answer = tuple[str, Finish]


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
