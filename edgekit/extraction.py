"""From texts to fields: one at a time, or many through one ordered lane of the scheduler."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from edgekit.answer import AnswerOptions, Extraction, Failure, Options, parse
from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.model import Model
    from edgekit.runtimes.lanes import Lane
    from edgekit.runtimes.request import Finish
    from edgekit.runtimes.scheduler import Scheduler
    from edgekit.runtimes.ticket import Ticket

AHEAD: Final = 3
"""Records on their way for each answer in the making: enough that a long one in front stops nobody."""


@dataclass(eq=False)
class _Record:
    """One text on its way: what came of it so far."""

    text: str
    ready: SimpleQueue[None]
    """Gets an entry when an answer is whole."""
    answer: str = ""
    finish: Finish | BaseException | None = None
    ticket: Ticket | None = None
    failure: Failure | None = None

    def hear(self, event: str | Finish | BaseException) -> None:
        """The answer's sink."""
        if isinstance(event, str):
            self.answer += event
        else:
            self.finish = event
            self.ready.put(None)

    @property
    def over(self) -> bool:
        """Whether its answer, or the reason that there is none, is known."""
        return self.failure is not None or self.finish is not None


class Extractor:
    """One schema and one prompt for any number of texts."""

    def __init__(
        self,
        model: Model,
        schema: Mapping[str, Any] | None,
        prompt: str | None,
        min_confidence: float | None,
        options: AnswerOptions,
    ) -> None:
        if min_confidence is not None and not 0 <= min_confidence <= 1:
            raise InputError("min_confidence is out of range", found=min_confidence, expected="0 to 1")
        self._model = model
        self._scheduler = model._scheduler
        self._schema = model.extraction_schema(schema)
        self._prompt = prompt
        model.extraction_prompt("", prompt)  # a template without a place is an error before the first text
        self._least = min_confidence
        asked: Options = {**options, "schema": self._schema}  # type: ignore[typeddict-item]
        self._request = replace(model.request(asked), trace=True)

    def one(self, text: str) -> Extraction:
        """The fields of one text."""
        record = self._prepare(text, SimpleQueue())
        if record.ticket is not None:
            self._scheduler.submit(record.ticket)
            try:
                record.ready.get()
            finally:
                if not record.ticket.over:
                    self._scheduler.cancel(record.ticket)
        return self._result(record)

    def many(self, texts: Iterable[str]) -> Iterator[Extraction]:
        """The fields of each text, in order; reads ahead of what it yields by a bounded number of texts."""
        ready: SimpleQueue[None] = SimpleQueue()
        schedulers = self._model.workers()
        ahead = AHEAD * schedulers[0].parallel
        lanes = [scheduler.open_lane(ahead, lambda: ready.put(None)) for scheduler in schedulers]
        source = enumerate(texts)
        waiting: deque[_Record] = deque()
        number, ended = 0, False
        try:
            while True:
                # Record after record to lane after lane: which one has room must not depend on time.
                while (
                    not ended and len(waiting) < 2 * ahead * len(lanes) and lanes[number % len(lanes)].roomy
                ):
                    number, text = next(source, (number, None))
                    if text is None:
                        ended = True
                        for scheduler, lane in zip(schedulers, lanes, strict=True):
                            scheduler.seal(lane)
                        break
                    if number % self._model.epoch == 0:
                        for scheduler, lane in zip(schedulers, lanes, strict=True):
                            scheduler.border(lane)
                    at = number % len(lanes)
                    waiting.append(self._feed(text, schedulers[at], lanes[at], ready))
                    number += 1
                if not waiting:
                    return
                while not (waiting[0].over or (not ended and lanes[number % len(lanes)].hungry)):
                    ready.get()
                while waiting and waiting[0].over:
                    yield self._result(waiting.popleft())
        finally:
            for scheduler, lane in zip(schedulers, lanes, strict=True):
                scheduler.close_lane(lane)

    def _feed(self, text: str, scheduler: Scheduler, lane: Lane, ready: SimpleQueue[None]) -> _Record:
        """A text on its way through a lane."""
        record = self._prepare(text, ready)
        if record.ticket is not None:
            record.ticket.lane = lane
            scheduler.submit(record.ticket)
        return record

    def _prepare(self, text: str, ready: SimpleQueue[None]) -> _Record:
        """A text as a request, or the reason why it can't be one."""
        record = _Record(text, ready)
        if not isinstance(text, str) or not text.strip():
            record.failure = Failure("empty", "the text is empty")
            return record
        model = self._model
        try:
            text.encode()
        except UnicodeEncodeError:
            record.failure = Failure(
                "encoding", "the text holds half of a surrogate pair, which is not Unicode"
            )
            return record
        try:
            tokens = model.tokens(model.messages(model.extraction_prompt(text, self._prompt)))
            record.ticket = self._scheduler.ticket(tokens, self._request, record.hear)
        except InputError as error:
            if "fit the context" not in error.what:
                raise
            record.failure = Failure("too_long", f"{error.what}: {error.found}, {error.expected}")
        return record

    def _result(self, record: _Record) -> Extraction:
        if record.failure is not None:
            return Extraction(None, "", False, 0, 0.0, needs_review=True, failure=record.failure)
        finish, answer = record.finish, record.answer
        if isinstance(finish, InputError):
            failure = Failure("invalid", str(finish))
            return Extraction(None, "", False, 0, 0.0, needs_review=True, failure=failure)
        if isinstance(finish, BaseException):
            raise finish
        assert finish is not None
        if finish.reason == "length":
            failure = Failure("truncated", f"the answer was cut off after {finish.tokens} tokens")
            return Extraction(
                None, answer, True, finish.tokens, finish.seconds, needs_review=True, failure=failure
            )
        data = parse(answer)
        return Extraction(data, answer, False, finish.tokens, finish.seconds)
