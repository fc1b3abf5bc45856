"""Many answers at once over one engine: requests join and leave between steps, and share what their prompts share.

A step is one ``Engine.decode``: every running answer's next tokens, and a bounded part of the prompts that are still
being read, so that a long prompt stalls nobody. One background thread does all steps: OpenMP keeps a pool of threads
for every thread that calls it, and stops spinning, at a third of the speed, once the pools outnumber the cores.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from time import perf_counter

from edgekit.errors import EdgekitError, HardwareError, InputError
from edgekit.runtimes import step
from edgekit.runtimes.constraint import Matcher, Vocabulary
from edgekit.runtimes.engine import Engine
from edgekit.runtimes.lanes import Lane, Lanes
from edgekit.runtimes.request import Request
from edgekit.runtimes.shortest import check_room
from edgekit.runtimes.slots import Slot, Slots
from edgekit.runtimes.ticket import Sink, Ticket, ticket_for


class Scheduler:
    """Owns an engine: nothing else may call it. Safe to use from many threads."""

    def __init__(self, engine: Engine, *, parallel: int | None = None, exact: bool = False) -> None:
        """At most ``parallel`` answers are in the making at once; unset: as many as the engine has sequences.

        ``exact``: one at a time, and nothing reused but whole steps, so that no other request can change an answer.
        """
        if parallel is not None and not (isinstance(parallel, int) and parallel >= 1):
            raise InputError("parallel is out of range", found=parallel, expected="1 or more")
        self.engine = engine
        self.parallel = 1 if exact else min(parallel or engine.n_seq_max, engine.n_seq_max)
        self._exact = exact
        self._slots = Slots(engine, self.parallel, exact=exact)
        self._chooser = step.Chooser(self.parallel)
        self._lanes = Lanes()
        self._vocabulary: Vocabulary | None = None
        self._lock = threading.Condition()
        self._idle = True
        """Nothing to do until something is submitted, cancelled or ended."""
        self._full = False
        """A request had to go back: nobody is admitted before another one's end makes room."""
        self._unwanted = False
        """Something was given up, or can become late: tickets are worth a look."""
        self._closed = self._stopped = self._orphan = False
        self._process = os.getpid()
        self._thread: threading.Thread | None = None

    def ticket(self, prompt: Sequence[int], request: Request, sink: Sink, *, stream: bool = False) -> Ticket:
        """A checked request, as ``ticket_for`` makes it."""
        return ticket_for(self.engine, prompt, request, sink, stream=stream)

    def submit(self, *tickets: Ticket) -> None:
        """Queue tickets, in order."""
        self._check_process()
        with self._lock:
            self.check_open()
            for ticket in tickets:
                self._lanes.put(ticket)
                self._unwanted |= ticket.request.deadline is not None
            self._wake()

    def open_lane(self, window: int, feed_me: Callable[[], None]) -> Lane:
        """An ordered stream of requests; ``feed_me`` is called, by the scheduler's thread, when it waits for one."""
        self._check_process()
        with self._lock:
            self.check_open()
            lane = Lane(window, feed_me)
            self._lanes.ordered.append(lane)
            return lane

    def border(self, lane: Lane) -> None:
        """What is submitted to the lane from here on finds the engine as new, if the lane is alone."""
        with self._lock:
            lane.queue.append(None)

    def skip(self, lane: Lane) -> None:
        """What would have come next in the lane is no request, but it counts."""
        with self._lock:
            lane.done(lane.number())
            self._wake()

    def seal(self, lane: Lane) -> None:
        """Nothing more will be submitted to the lane."""
        with self._lock:
            lane.open = False
            self._wake()

    def close_lane(self, lane: Lane) -> None:
        """The lane's reader is gone: whatever is unfinished is given up."""
        with self._lock:
            lane.open, lane.given_up, self._unwanted = False, True, True
            self._wake()

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up: its slot is free within one step, and its sink hears nothing more."""
        with self._lock:
            ticket.cancelled = self._unwanted = True
            self._wake()

    def stop(self) -> None:
        """Fail what is unfinished and end the thread; what is submitted later is an error. The engine stays open."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._end()

    def close(self) -> None:
        """The same, and close the engine."""
        if threading.current_thread() is self._thread:  # it came upon a model that nobody holds, in mid-step
            self._closed = self._orphan = True
            return
        self.stop()
        self.engine.close()

    def _wake(self) -> None:
        """Something changed for the thread, which starts with the first request; under the lock."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="edgekit-scheduler", daemon=True)
            self._thread.start()
        if self._idle:
            self._idle = False
            self._lock.notify_all()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closed or not self._idle)
                if self._closed:
                    break
            self._once()
        if self._orphan:
            self._end()
            self.engine.close()

    def _end(self) -> None:
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._fail_all(InputError("the model is closed"))

    def _once(self) -> None:
        """One step, or the discovery that nothing can be done until something is submitted."""
        try:
            with self._lock:
                if self._unwanted:
                    self._drop_unwanted()
                self._lanes.sweep()
                while not self._full and self._admit():
                    pass
                active = self._slots.active()
                if not active or self._lanes.lack_all(slot.ticket.lane for slot in active if slot.ticket):
                    self._idle = True
                    for lane in self._lanes.ordered:
                        lane.feed_me()
                    return
            self._compute(active)
        except BaseException as error:  # noqa: BLE001 - everyone is told; the thread is for those to come
            self._fail_all(error)

    def _drop_unwanted(self) -> None:
        """Take out what was cancelled, is late, or belongs to a lane that nobody reads."""
        now, left = perf_counter(), False
        for slot in self._slots.active():
            left |= slot.ticket.request.deadline is not None  # type: ignore[union-attr]
            if step.unwanted(slot.ticket, now):  # type: ignore[arg-type]
                self._over(slot)
        for ticket in list(self._lanes.waiting()):
            left |= ticket.request.deadline is not None
            if step.unwanted(ticket, now):
                self._lanes.remove(ticket)
                self._count_off(ticket)
        self._unwanted = left

    def _admit(self) -> bool:
        """Give a slot to the next of every lane, in turn; whether anything moved."""
        moved = False
        for lane in self._lanes.heads():
            queue = self._lanes.singles if lane is None else lane.queue
            ticket = queue[0]
            if ticket is None:
                moved |= self._pass_border(lane)
            elif (slot := self._slots.place(ticket)) is None:
                break  # the others would take the room that it waits for
            else:
                queue.popleft()
                self._lanes.served(lane)
                self._begin(slot, ticket)
                moved = True
        return moved

    def _pass_border(self, lane: Lane | None) -> bool:
        """Let a lane go past a border once all before it is done; the cache is emptied where the lane is alone."""
        active = self._slots.active()
        if lane is None or any(slot.ticket and slot.ticket.lane is lane for slot in active):
            return False
        lane.queue.popleft()
        lane.shared = None
        if not active:
            self._slots.forget()
        return True

    def _begin(self, slot: Slot, ticket: Ticket) -> None:
        """Start an answer in its slot; it may fail there, or be over before it began."""
        try:
            if ticket.writer is None:
                step.begin(self.engine, slot, ticket, self._matcher(ticket))
        except BaseException as error:  # noqa: BLE001 - a bug or a panic, it is this request's alone
            step.fail(ticket, error)
        if ticket.over:
            self._over(slot)

    def _matcher(self, ticket: Ticket) -> Matcher | None:
        grammar = ticket.request.grammar
        if grammar is None:
            return None
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self.engine)
        check_room(grammar, self._vocabulary, self.engine.n_ctx - len(ticket.prompt) + 1)
        return self._vocabulary.matcher(grammar)

    def _compute(self, active: list[Slot]) -> None:
        chosen = step.plan(active, self._exact)
        if not self._slots.fits(sum(count for _, count in chosen)) and len(active) > 1:
            self._send_back(active)
            return
        self._run(chosen, active)

    def _run(self, chosen: list[tuple[Slot, int]], active: list[Slot]) -> None:
        try:
            found, logits = step.compute(self.engine, self._slots, chosen)
        except EdgekitError as error:
            if isinstance(error, HardwareError) and len(active) > 1:
                self._send_back(active)
            elif len(chosen) > 1:
                for one in chosen:  # whose fault it is shows when each goes alone
                    self._run([one], [])
            else:
                slot = chosen[0][0]
                assert slot.ticket is not None
                step.fail(slot.ticket, error)
                self._over(slot)
                self._slots.keep(slot, 0)
            return
        for slot in self._chooser.advance(found, logits, self._vocabulary):
            self._over(slot)

    def _send_back(self, active: list[Slot]) -> None:
        """The cache is full: whoever came last goes back to the queue, with what it has written so far."""
        slot = active[-1]
        assert slot.ticket is not None
        with self._lock:
            self._lanes.put_back(slot.ticket)
        self._full = True
        self._slots.keep(slot, 0)
        self._slots.release(slot)

    def _over(self, slot: Slot) -> None:
        """A slot's ticket is done, failed or given up."""
        assert slot.ticket is not None
        self._full = False
        self._count_off(slot.ticket)
        self._slots.release(slot)

    def _count_off(self, ticket: Ticket) -> None:
        ticket.over = True
        if ticket.lane is not None:
            with self._lock:
                ticket.lane.done(ticket.number)

    def _fail_all(self, error: BaseException) -> None:
        """Tell everyone, and start from an empty cache: an interrupt may have left anything half done."""
        with self._lock:
            tickets = [*(slot.ticket for slot in self._slots.active() if slot.ticket), *self._lanes.waiting()]
            self._lanes.clear()
            self._full = False
            try:
                self._slots.forget()
            except BaseException:  # noqa: BLE001 - an engine that can't be emptied can't be used either
                self._closed = True
            for ticket in tickets:
                self._count_off(ticket)
                step.fail(ticket, error)

    def check_open(self) -> None:
        """Raise ``InputError`` where it was stopped."""
        if self._closed:
            raise InputError("the model is closed")

    def _check_process(self) -> None:
        """Before the lock: the thread that may hold it is not here any more."""
        if self._process != os.getpid():
            raise InputError("the model was loaded before this process was forked", next_step="load it here")
