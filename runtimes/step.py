"""One step: which tokens go into the next call of the engine, and what its logits mean to whom."""

from __future__ import annotations

from time import perf_counter
from typing import Final

import numpy as np

from edgekit.errors import EdgekitError, HardwareError
from edgekit.runtimes.constraint import Matcher, Vocabulary
from edgekit.runtimes.engine import Engine, Logits, Run
from edgekit.runtimes.masks import MaskBatch
from edgekit.runtimes.request import Finish
from edgekit.runtimes.slots import STEP, TAIL, Slot, Slots
from edgekit.runtimes.ticket import Ticket
from edgekit.runtimes.writer import Writer

PROMPT_SHARE: Final = 64
"""Prompt tokens in a step that also carries running answers: as many as cost little more than a few."""
OLDEST: Final = 4
"""The prompt that has waited longest gets at least this part of them, one in so many; the others go by length."""


def plan(active: list[Slot], exact: bool) -> list[tuple[Slot, int]]:
    """How many pending tokens of which slot to compute: running answers whole, prompts by share, short ones first."""
    running = [slot for slot in active if not slot.boundary]
    reading = [slot for slot in active if slot.boundary]
    taken = [(slot, len(slot.pending)) for slot in running]
    if exact:
        return taken + [(slot, _whole(slot)) for slot in reading]
    left = PROMPT_SHARE if running else STEP
    if reading:  # slots come longest-serving first
        oldest = min(len(reading[0].pending), max(1, left // OLDEST))
        left -= oldest
        for slot in sorted(reading, key=lambda slot: len(slot.pending)):
            room = left + (oldest if slot is reading[0] else 0)
            count = min(len(slot.pending), room)
            left = room - count if slot is reading[0] else left - count
            if count:
                taken.append((slot, _cut(slot, count)))
    return [(slot, count) for slot, count in taken if count]


def _cut(slot: Slot, count: int) -> int:
    """No cut behind the prompt's last token: it goes with all that is forced after it."""
    whole = count == len(slot.pending) or slot.boundary == 1
    return len(slot.pending) if whole else min(count, slot.boundary - 1)


def _whole(slot: Slot) -> int:
    """A whole step, or all that is left: as many tokens whatever else was asked."""
    return len(slot.pending) if slot.boundary < STEP + TAIL else STEP


def runs_of(slot: Slot, count: int) -> list[Run]:
    """The engine's runs for the first ``count`` pending tokens: prompt and answer apart, logits where they are due."""
    tokens = slot.pending[:count]
    ticket = slot.ticket
    assert ticket is not None
    if count < len(slot.pending):
        return [Run(slot.seq, tokens)]
    prompt, answer = tokens[: slot.boundary], tokens[slot.boundary :]
    if not answer:
        return [Run(slot.seq, prompt, (len(prompt) - 1,))]
    scored = bool(ticket.request.answer)
    last = tuple(range(len(answer))) if scored else (len(answer) - 1,)
    if not prompt:
        return [Run(slot.seq, answer, last)]
    return [Run(slot.seq, prompt, (len(prompt) - 1,) if scored else ()), Run(slot.seq, answer, last)]


def compute(
    engine: Engine, slots: Slots, chosen: list[tuple[Slot, int]]
) -> tuple[list[tuple[Slot, Logits]], Logits]:
    """Run the engine once; each slot whose pending tokens are all done with its logits, and all logits together.

    After an error nothing has changed.
    """
    runs: list[Run] = []
    wanted: list[tuple[Slot, int]] = []
    for slot, count in chosen:
        its = runs_of(slot, count)
        runs += its
        if rows := sum(len(run.want) for run in its):
            wanted.append((slot, rows))
    rows_of = engine.decode(runs)
    for slot, count in chosen:
        slots.computed(slot, count)
    found = []
    at = 0
    for slot, rows in wanted:
        found.append((slot, rows_of[at : at + rows]))
        at += rows
    return found, rows_of


class Chooser:
    """Lets answers go on from their logits: the greedy ones under a schema all at once, the others one by one."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._masks: MaskBatch | None = None

    def advance(
        self, found: list[tuple[Slot, Logits]], logits: Logits, vocabulary: Vocabulary | None
    ) -> list[Slot]:
        """Choose for every slot; ``logits`` are those of all of them. Returns the slots whose answers are over."""
        over: list[Slot] = []
        for slot, rows in self._together(found, logits, vocabulary, over):
            ticket, writer = _work(slot)
            try:
                if ticket.request.answer:
                    writer.score(rows)
                    run: list[int] = []
                else:
                    run = writer.choose(rows[0], ticket.prompt)
                done = _go_on(slot, run)
            except BaseException as error:  # noqa: BLE001 - a bug or a panic, it is this answer's alone
                fail(ticket, error)
                done = True
            if done:
                over.append(slot)
        return over

    def _together(
        self,
        found: list[tuple[Slot, Logits]],
        logits: Logits,
        vocabulary: Vocabulary | None,
        over: list[Slot],
    ) -> list[tuple[Slot, Logits]]:
        """Do the greedy ones under a schema; the rest is returned, and all where one of them is in trouble."""
        at = [
            index
            for index, (slot, rows) in enumerate(found)
            if len(rows) == 1 and _work(slot)[1].matcher is not None and _work(slot)[1].greedy
        ]
        if not at or vocabulary is None:
            return found
        if self._masks is None:
            self._masks = MaskBatch(self._rows, vocabulary)
        try:
            self._masks.compute([_work(found[index][0])[1].matcher for index in at])
            whole = len(at) == len(found) == len(logits)
            best = self._masks.best(logits if whole else np.concatenate([found[index][1] for index in at]))
        except EdgekitError:
            return found
        choices = zip(at, best.ids.tolist(), best.logprobs.tolist(), best.runner_up.tolist(), strict=True)
        for index, token, logprob, runner_up in choices:
            slot = found[index][0]
            ticket, writer = _work(slot)
            try:
                if _go_on(slot, writer.take(token, logprob, runner_up)):
                    over.append(slot)
            except BaseException as error:  # noqa: BLE001 - as above
                fail(ticket, error)
                over.append(slot)
        done = set(at)
        return [entry for index, entry in enumerate(found) if index not in done]


def _work(slot: Slot) -> tuple[Ticket, Writer]:
    ticket = slot.ticket
    assert ticket is not None and ticket.writer is not None
    return ticket, ticket.writer


def _go_on(slot: Slot, run: list[int]) -> bool:
    """Show the text of new tokens and line them up; True if the answer is over, with everything told to the sink."""
    ticket, writer = _work(slot)
    if ticket.first is None:
        ticket.first = perf_counter() - ticket.begun
    show(ticket, run)
    if writer.ended() is None:
        slot.pending = run
        return False
    finish(ticket)
    return True


def begin(engine: Engine, slot: Slot, ticket: Ticket, matcher: Matcher | None) -> None:
    """Start an answer in its slot; it may be over before it began."""
    ticket.writer = Writer(engine, ticket.request, ticket.budget, matcher)
    run = ticket.writer.begin()
    slot.pending += run
    show(ticket, run)
    if ticket.writer.ended() is not None:
        finish(ticket)


def show(ticket: Ticket, run: list[int]) -> None:
    """Tell the sink the text that new tokens complete, or keep it for the end."""
    if not (ticket.stream or ticket.request.stop):
        return
    assert ticket.writer is not None
    text = ticket.writer.text(run)
    if text and ticket.stream:
        ticket.sink(text)
    elif text:
        ticket.kept.append(text)


def finish(ticket: Ticket) -> None:
    """Tell the sink the rest and the end."""
    writer = ticket.writer
    assert writer is not None
    reason = writer.ended()
    assert reason is not None
    if not (ticket.stream or ticket.request.stop):
        ticket.kept.append(writer.text(writer.tokens))
    if text := "".join(ticket.kept) + writer.rest():
        ticket.sink(text)
    seconds = perf_counter() - ticket.begun
    first = seconds if ticket.first is None else ticket.first
    ticket.over = True
    ticket.sink(Finish(reason, len(writer.tokens), len(ticket.prompt), seconds, first, writer.trace))


def unwanted(ticket: Ticket, now: float) -> bool:
    """Whether nobody waits for a ticket any more: it was cancelled, or is late, which its sink is told."""
    if ticket.lane is not None and ticket.lane.given_up:
        ticket.cancelled = True
    if ticket.late(now):
        limit = f"{ticket.request.deadline:g} s"
        fail(ticket, HardwareError("no whole answer within the deadline", expected=limit))
        return True
    return ticket.cancelled


def fail(ticket: Ticket, error: BaseException) -> None:
    """Tell the sink that there will be no answer; nothing for one that was cancelled."""
    ticket.over = True
    if not ticket.cancelled:
        ticket.sink(error if isinstance(error, EdgekitError) else _broken(error))


def _broken(error: BaseException) -> BaseException:
    """An error of its own for each waiting thread: one that is raised in several collects their traces."""
    again = RuntimeError(f"the model's scheduler broke off: {type(error).__name__}: {error}")
    again.__cause__ = error
    return again
