"""Which sequence of the KV cache holds what, who may use it, and how much of it a new prompt finds there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edgekit.errors import UnsupportedModelError
from edgekit.runtimes.cells import Cells
from edgekit.runtimes.engine import Engine
from edgekit.runtimes.ticket import Ticket

WORTH_COPYING: Final = 8
"""Tokens more than a slot holds itself before another sequence's beginning is copied into it."""
WORTH_WAITING: Final = 16
"""Tokens that another request is computing at this moment, before a request waits to share them."""
RESERVE: Final = 64
"""Tokens of an answer for which there must be room when its prompt is admitted."""
STEP: Final = 512
"""Prompt tokens per call where answers must not depend on what was asked before: llama.cpp's own batch, so that
cutting a prompt here costs nothing. The cache is reused in whole steps, because the same token computed in a batch of
another size has slightly other logits."""
TAIL: Final = 32
"""The last call for such a prompt has at least this many tokens where there are steps before it: a handful alone would
cost a pass over the weights of its own."""


class Slot:
    """One sequence: what it holds, and the request that it works for."""

    __slots__ = ("boundary", "held", "pending", "seq", "since", "ticket", "whole")

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.held: list[int] = []
        self.whole = 0
        """Leading tokens that were computed in whole steps."""
        self.ticket: Ticket | None = None
        self.pending: list[int] = []
        """Tokens to compute next; the last one's logits are wanted."""
        self.boundary = 0
        """How many of these belong to the prompt."""
        self.since = 0
        """When it was last given away or freed, in counts."""


class Slots:
    """All sequences of an engine."""

    def __init__(self, engine: Engine, count: int, *, exact: bool) -> None:
        self._engine, self._exact = engine, exact
        self.slots = [Slot(seq) for seq in range(count)]
        self._cells = Cells(count)
        self._clock = 0

    def active(self) -> list[Slot]:
        """Slots at work, the longest-serving first."""
        return sorted((slot for slot in self.slots if slot.ticket is not None), key=lambda slot: slot.since)

    def place(self, ticket: Ticket) -> Slot | None:
        """Give a ticket a slot with as much of its tokens as the cache holds; None: it has to wait.

        It waits for a slot, for room, and for a prompt in the making that it shares more with.
        """
        idle = [slot for slot in self.slots if slot.ticket is None]
        if not idle:
            return None
        tokens = ticket.tokens()
        # The prompt's last token is always computed, and all of the answer after it: its logits may be wanted.
        most = len(ticket.prompt) - 1
        shared = {slot: _common(slot.held, tokens, most) for slot in self.slots}
        own = max(idle, key=lambda slot: (shared[slot], not slot.held, -slot.since))
        here = self._reusable(own, tokens, shared[own])
        source = max(self.slots, key=shared.__getitem__)
        there = 0 if self._exact else shared[source]
        if not self._exact and self._worth_waiting(tokens, max(here, there)):
            return None
        busy = len(idle) < len(self.slots)
        copies = there >= here + WORTH_COPYING
        if copies and source in idle:  # a slot that ends exactly there is as good as a copy
            own, copies, here = source, False, there
        elif copies:
            own = min(idle, key=lambda slot: (len(slot.held), slot.since))
        if not copies:
            here = self.keep(own, here)  # the rest of what an idle slot holds keeps nobody out
        need = len(tokens) - (there if copies else here) + min(RESERVE, ticket.budget)
        if not self._make_room(need, source.seq if copies else own.seq) and busy:
            return None
        kept = self._copy(source, own, there) if copies else here
        own.ticket, own.pending = ticket, list(tokens[kept:])
        if ticket.lane is not None:
            start = ticket.prompt if ticket.lane.shared is None else ticket.lane.shared
            ticket.lane.shared = start[: _common(ticket.prompt, start, most)]
        own.boundary = max(0, len(ticket.prompt) - kept)
        self._clock += 1
        own.since = self._clock
        return own

    def _reusable(self, slot: Slot, tokens: Sequence[int], common: int) -> int:
        if not self._exact:
            return common
        last = STEP * max(0, (len(tokens) - TAIL) // STEP)
        return min(common, slot.whole, last) // STEP * STEP

    def _worth_waiting(self, tokens: Sequence[int], cached: int) -> bool:
        """Whether a prompt that is being computed shares clearly more with these tokens than the cache does."""
        limit = len(tokens) - 1
        return any(
            slot.ticket is not None
            and slot.boundary > 0
            and _common(slot.ticket.prompt, tokens, limit) >= cached + WORTH_WAITING
            and len(slot.held) < _common(slot.ticket.prompt, tokens, limit)
            for slot in self.slots
        )

    def _copy(self, source: Slot, slot: Slot, length: int) -> int:
        try:
            self._engine.copy_prefix(source.seq, slot.seq, length)
        except UnsupportedModelError:  # a cache that is one state of the whole sequence
            return self.keep(slot, 0)
        self._cells.copy(source.seq, slot.seq, length)
        slot.held, slot.whole = source.held[:length], 0
        return length

    def keep(self, slot: Slot, length: int) -> int:
        """Forget what a slot holds from ``length`` on; how much was kept: nothing where a cache can't go back.

        Done even where nothing is left to forget: it repairs the engine after an interrupted call.
        """
        try:
            self._engine.drop(slot.seq, length)
        except UnsupportedModelError:
            length = 0
            self._engine.drop(slot.seq)
        self._cells.truncate(slot.seq, length)
        del slot.held[length:]
        slot.whole = min(slot.whole, length)
        return length

    def computed(self, slot: Slot, count: int) -> None:
        """The first ``count`` pending tokens are in the cache now."""
        done = slot.pending[:count]
        self._cells.append(slot.seq, count)
        if self._exact and count == STEP and slot.whole == len(slot.held):
            slot.whole += STEP
        slot.held += done
        del slot.pending[:count]
        slot.boundary = max(0, slot.boundary - count)

    def release(self, slot: Slot) -> None:
        """The slot's work is over; what it holds stays until the room is needed.

        Of a lane's requests only what they share: attention looks at every place that is taken, whosever it is.
        """
        assert slot.ticket is not None
        if (lane := slot.ticket.lane) is not None and not self._exact:
            self.keep(slot, _common(slot.held, lane.shared or [], len(slot.held)))
        slot.ticket, slot.pending, slot.boundary = None, [], 0
        self._clock += 1
        slot.since = self._clock

    def fits(self, count: int) -> bool:
        """Whether ``count`` more tokens fit, idle slots emptied if they must."""
        return self._make_room(count, None)

    def _make_room(self, count: int, spared: int | None) -> bool:
        idle = sorted((s for s in self.slots if s.ticket is None and s.held), key=lambda slot: slot.since)
        for slot in idle:
            if self._cells.used + count <= self._engine.n_kv:
                return True
            if slot.seq != spared:
                self.keep(slot, 0)
        return self._cells.used + count <= self._engine.n_kv

    def forget(self) -> None:
        """Empty all slots and what they were at, so that what follows finds the cache as new."""
        self.slots = [Slot(slot.seq) for slot in self.slots]
        self._clock = 0
        self._cells = Cells(len(self.slots))
        self._engine.clear()


def _common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """Length of the longest common beginning, at most ``most``: halved, because lists compare fast."""
    low, high = 0, min(len(one), len(other), most)
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
