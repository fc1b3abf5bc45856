"""Who is next: requests that came one by one, and ordered streams of them, in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from edgekit.runtimes.ticket import Ticket


class Lane:
    """An ordered stream of requests. They are admitted strictly in order, each as soon as there is a slot for it.

    That makes which requests share a step a function of the requests alone: where the lane has nothing to admit
    because its feeder is slow, the scheduler waits for the feeder, unless others want something.
    """

    def __init__(self, window: int, feed_me: Callable[[], None]) -> None:
        self.feed_me = feed_me
        self.window = window
        """A request may be fed once the earliest unfinished one is at most this many before it."""
        self.queue: deque[Ticket | None] = deque()
        """None is a border: what follows it finds the engine as new."""
        self.fed = self.finished = 0
        self._done: set[int] = set()
        self.shared: list[int] | None = None
        """Tokens with which all its prompts so far begin."""
        self.open = True
        self.given_up = False
        """Nobody reads its answers any more."""

    @property
    def roomy(self) -> bool:
        """Whether another request may be fed."""
        return self.open and self.fed - self.finished < self.window

    @property
    def hungry(self) -> bool:
        """Whether it would admit another request if it had one."""
        return not self.queue and self.roomy

    def number(self) -> int:
        """The number of the request that is fed next."""
        self.fed += 1
        return self.fed - 1

    def done(self, number: int) -> None:
        """A request is over; ``finished`` counts those that have no unfinished one before them."""
        self._done.add(number)
        while self.finished in self._done:
            self._done.remove(self.finished)
            self.finished += 1


class Lanes:
    """All that waits: the lane of single requests, and the ordered ones; each is served in turn."""

    def __init__(self) -> None:
        self.singles: deque[Ticket] = deque()
        self.ordered: list[Lane] = []
        self._served: list[Lane | None] = []
        """Lanes in the order in which they were last served."""

    def put(self, ticket: Ticket) -> None:
        """At the end of its lane."""
        if ticket.lane is None:
            self.singles.append(ticket)
        else:
            ticket.number = ticket.lane.number()
            ticket.lane.queue.append(ticket)

    def put_back(self, ticket: Ticket) -> None:
        """To the head of its lane: it had been admitted before."""
        if ticket.lane is not None and ticket.lane not in self.ordered:  # it had come to its end
            self.ordered.append(ticket.lane)
        (self.singles if ticket.lane is None else ticket.lane.queue).appendleft(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Out of its queue."""
        (self.singles if ticket.lane is None else ticket.lane.queue).remove(ticket)

    def sweep(self) -> None:
        """Forget lanes that have come to their end."""
        self.ordered = [lane for lane in self.ordered if lane.open or lane.queue]

    def clear(self) -> None:
        """Nothing waits any more; ordered lanes go on with what they are fed next."""
        self.singles.clear()
        for lane in self.ordered:
            lane.queue.clear()

    def waiting(self) -> Iterator[Ticket]:
        """Every ticket in a queue."""
        yield from self.singles
        for lane in self.ordered:
            yield from (ticket for ticket in lane.queue if ticket is not None)

    def lack_all(self, busy: Iterable[Lane | None]) -> bool:
        """Whether the lanes lack their next requests, and nobody else wants anything: the step waits for them.

        Where two are read at once and only one lacks them, it does not: its reader may be away for good.
        """
        lanes = {*busy, *self.ordered}
        return not self.singles and all(lane is not None and lane.hungry for lane in lanes)

    def heads(self) -> list[Lane | None]:
        """Lanes that have something to admit, the one whose turn it is first; None is that of single requests."""
        lanes: list[Lane | None] = [None] if self.singles else []
        lanes += [lane for lane in self.ordered if lane.queue]
        if len(lanes) > 1:
            lanes.sort(key=lambda lane: self._served.index(lane) if lane in self._served else -1)
        return lanes

    def served(self, lane: Lane | None) -> None:
        """It is the others' turn now."""
        if len(self.ordered) > 1 or (self.ordered and self.singles):
            known = [other for other in self._served if other is None or other in self.ordered]
            self._served = [other for other in known if other is not lane] + [lane]
