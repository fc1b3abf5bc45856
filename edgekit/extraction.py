"""From texts to fields: one at a time, or many through one ordered lane of the scheduler."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from edgekit.answer import AnswerOptions, Extraction, Failure, Options
from edgekit.arguments import check
from edgekit.confidence import Trace, evidence
from edgekit.errors import HardwareError, InputError
from edgekit.schemas import restore

if TYPE_CHECKING:
    from edgekit.confidence_map import ConfidenceMap
    from edgekit.model import Model
    from edgekit.runtimes.lanes import Lane
    from edgekit.runtimes.request import Finish
    from edgekit.runtimes.scheduler import Scheduler
    from edgekit.runtimes.ticket import Ticket

_END: Final[Any] = object()
AHEAD: Final = 3
"""Records on their way for each answer in the making: enough that a long one in front stops nobody."""


@dataclass(eq=False)
class _Record:
    """One text on its way: what came of it so far."""

    text: str
    wake: Callable[[], None]
    """Called when the answer is whole."""
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
            self.wake()

    @property
    def over(self) -> bool:
        """Whether its answer, or the reason that there is none, is known."""
        return self.failure is not None or self.finish is not None


class Extractor:
    """One schema and one prompt for any number of texts."""

    def __init__(
        self,
        model: Model,
        schema: Any,
        prompt: str | None,
        min_confidence: float | None,
        options: AnswerOptions,
    ) -> None:
        check("min_confidence", min_confidence, (int, float, type(None)), "0 to 1")
        if min_confidence is not None and not 0 <= min_confidence <= 1:
            raise InputError("min_confidence is out of range", found=min_confidence, expected="0 to 1")
        from edgekit.runtimes.validity import Validator

        self._model = model
        self._scheduler = model._scheduler
        self._schema = model.extraction_schema(schema)
        self._prompt = prompt
        model.extraction_prompt("", prompt)  # a template without a place is an error before the first text
        self._least = min_confidence
        asked: Options = {**options, "schema": self._schema}  # type: ignore[typeddict-item]
        self._request = replace(model.request(asked), trace=True)
        assert self._request.grammar is not None and self._request.grammar.schema is not None
        self._validator = Validator(self._request.grammar.schema)
        self._map = self._fitting_map()

    def _fitting_map(self) -> ConfidenceMap | None:
        """The model's calibration, where it was made for what is asked here."""
        from edgekit.confidence_map import digest_of_prompt, digest_of_schema
        from edgekit.runtimes.sampling import GREEDY

        model, fitted = self._model, self._model.confidence
        prompt = model.prompt if self._prompt is None else self._prompt
        if fitted is None or not isinstance(self._schema, Mapping) or self._request.sampling != GREEDY:
            return None
        same = fitted.fitted_for.output_schema == digest_of_schema(
            self._schema
        ) and fitted.fitted_for.prompt == digest_of_prompt(prompt, model.system)
        return fitted if same else None

    def one(self, text: str) -> Extraction:
        """The fields of one text."""
        ready: SimpleQueue[None] = SimpleQueue()
        record = self._prepare(text, lambda: ready.put(None))
        if record.ticket is not None:
            self._scheduler.submit(record.ticket)
            try:
                ready.get()
            finally:
                if not record.ticket.over:
                    self._scheduler.cancel(record.ticket)
        return self._result(record)

    async def aone(self, text: str) -> Extraction:
        """The same, waited for by an event loop."""
        from edgekit.aio import to_loop

        over = asyncio.Event()
        wake = to_loop(lambda _: over.set())
        record = self._prepare(text, lambda: wake(""))
        if record.ticket is not None:
            self._scheduler.submit(record.ticket)
            try:
                await over.wait()
            finally:
                if not record.ticket.over:
                    self._scheduler.cancel(record.ticket)
        return self._result(record)

    def many(self, texts: Iterable[str]) -> Generator[Extraction]:
        """The fields of each text, in order; reads ahead of what it yields by a bounded number of texts."""
        with closing(self._records(texts)) as records:
            for record in records:
                yield self._result(record)

    def traces(self, texts: Iterable[str]) -> Iterator[tuple[str, Trace, Any]]:
        """Each text with the trace of its answer and its data, None where there are none."""
        for record in self._records(texts):
            result = self._result(record)
            finish = record.finish
            whole = not isinstance(finish, BaseException | None) and finish.trace is not None
            trace = self._trace(finish) if whole else Trace([], [], [])  # type: ignore[arg-type]
            yield record.text, trace, result.data

    def _records(self, texts: Iterable[str]) -> Generator[_Record]:
        """Texts whose answers are known, in order."""
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            found = "one text" if isinstance(texts, str) else repr(texts)[:100]
            raise InputError("texts are several: a list, or anything that can be iterated", found=found)
        ready: SimpleQueue[None] = SimpleQueue()
        schedulers = self._model.schedulers()
        ahead = AHEAD * schedulers[0].parallel
        most = 2 * ahead * len(schedulers)

        def wake() -> None:
            ready.put(None)

        source = iter(texts)
        lanes = [scheduler.open_lane(ahead, wake) for scheduler in schedulers]
        waiting: deque[_Record] = deque()
        number, ended = 0, False
        try:
            while True:
                # Record after record to lane after lane: which one has room must not depend on time.
                # Where nothing is on its way there is room, whether the scheduler has counted it yet or not.
                while not ended and (
                    not waiting
                    or (lanes[number % len(lanes)].roomy and not (waiting[0].over and len(waiting) >= most))
                ):
                    text = next(source, _END)
                    if text is _END:
                        ended = True
                        for scheduler, lane in zip(schedulers, lanes, strict=True):
                            scheduler.seal(lane)
                        break
                    if number % self._model.epoch == 0:
                        for scheduler, lane in zip(schedulers, lanes, strict=True):
                            scheduler.border(lane)
                    at = number % len(lanes)
                    waiting.append(self._feed(text, schedulers[at], lanes[at], wake))
                    number += 1
                if not waiting:
                    return
                while not (waiting[0].over or (not ended and lanes[number % len(lanes)].hungry)):
                    ready.get()
                while waiting and waiting[0].over:
                    yield waiting.popleft()
        finally:
            for scheduler, lane in zip(schedulers, lanes, strict=True):
                scheduler.close_lane(lane)

    def _feed(self, text: str, scheduler: Scheduler, lane: Lane, wake: Callable[[], None]) -> _Record:
        """A text on its way through a lane."""
        record = self._prepare(text, wake)
        if record.ticket is None:
            scheduler.skip(lane)
        else:
            record.ticket.lane = lane
            scheduler.submit(record.ticket)
        return record

    def _prepare(self, text: str, wake: Callable[[], None]) -> _Record:
        """A text as a request, or the reason why it can't be one."""
        record = _Record(text, wake)
        if not isinstance(text, str):
            record.failure = Failure("encoding", f"not a text but {type(text).__name__}")
            return record
        if not text.strip():
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
            return _failed(record.failure)
        finish, answer = record.finish, record.answer
        if isinstance(finish, InputError):
            short = "more tokens than are left" in finish.what
            return _failed(Failure("too_long" if short else "invalid", str(finish)))
        if isinstance(finish, HardwareError) and "deadline" in finish.what:
            return _failed(Failure("deadline", finish.what))
        if isinstance(finish, BaseException):
            raise finish
        assert finish is not None
        if finish.reason == "length":
            failure = Failure("truncated", f"the answer was cut off after {finish.tokens} tokens")
            return _failed(failure, answer, finish)
        data, problems = self._validator.read(answer)
        if problems:
            return _failed(Failure("invalid", "; ".join(problems)), answer, finish)
        by_field, overall = self._confidence(finish, record.text)
        low = self._least is not None and min([overall, *by_field.values()]) < self._least
        return Extraction(
            data if isinstance(self._schema, Mapping) else restore(self._schema, data),
            answer,
            False,
            finish.tokens,
            finish.seconds,
            by_field,
            overall,
            low,
            self._map is not None,
        )

    def _confidence(self, finish: Finish, text: str) -> tuple[dict[str, float], float]:
        found = evidence(self._trace(finish), text)
        return found.raw() if self._map is None else self._map.apply(found)

    def _trace(self, finish: Finish) -> Trace:
        trace = finish.trace
        assert trace is not None
        pieces = list(map(self._model._engine.token_bytes, trace.tokens))
        return Trace(pieces, trace.logprobs, trace.runner_up)


def _failed(failure: Failure, answer: str = "", finish: Finish | None = None) -> Extraction:
    tokens, seconds = (finish.tokens, finish.seconds) if finish else (0, 0.0)
    cut = failure.code == "truncated"
    return Extraction(None, answer, cut, tokens, seconds, needs_review=True, failure=failure)
