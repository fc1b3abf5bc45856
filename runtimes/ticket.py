"""One asked answer, as the scheduler and whoever waits for it both see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from edgekit.errors import InputError
from edgekit.runtimes.engine import Engine
from edgekit.runtimes.request import Finish, Request
from edgekit.runtimes.writer import Writer

if TYPE_CHECKING:
    from edgekit.runtimes.lanes import Lane

Sink = Callable[["str | Finish | BaseException"], None]
"""Where pieces of text go as they come, then one ``Finish``, or one error; called by the scheduler's thread, so it
must neither wait nor raise."""


@dataclass(eq=False)
class Ticket:
    """A request on its way: waiting, in a slot, or over."""

    prompt: list[int]
    request: Request
    sink: Sink
    budget: int
    """Tokens that the answer may have."""
    stream: bool = False
    """Whether text is wanted as it comes; otherwise all of it comes at the end."""
    lane: Lane | None = None
    """The ordered stream of requests that it belongs to, and its number there."""
    number: int = 0
    begun: float = field(default_factory=perf_counter)
    first: float | None = None
    writer: Writer | None = None
    """What was written so far; kept when the cache was full and the request had to go back to the queue."""
    kept: list[str] = field(default_factory=list)
    """Text that is shown at the end."""
    cancelled: bool = False
    over: bool = False

    def tokens(self) -> Sequence[int]:
        """All that the sequence holds or will hold: the prompt, and the answer so far."""
        return self.prompt if self.writer is None else self.prompt + self.writer.tokens

    def late(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.request.deadline is not None and now - self.begun > self.request.deadline


def ticket_for(
    engine: Engine, prompt: Sequence[int], request: Request, sink: Sink, *, stream: bool = False
) -> Ticket:
    """A checked request; ``InputError`` for a prompt that is empty or doesn't fit the context."""
    if not prompt:
        raise InputError("the prompt is empty")
    needed = len(prompt) + len(request.answer)
    room = engine.n_ctx - needed
    if room < 0:
        raise InputError(
            "the prompt doesn't fit the context",
            found=f"{needed} tokens",
            expected=f"at most {engine.n_ctx}",
            next_step="shorten it, or load the model with a larger n_ctx",
        )
    # The last token of an answer is never decoded, so it needs no room.
    return Ticket(list(prompt), request, sink, min(request.max_tokens, room + 1), stream)
