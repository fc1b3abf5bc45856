"""Labels by their exact probability under the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Final

from edgekit.answer import Classification
from edgekit.arguments import check
from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.model import Model
    from edgekit.runtimes.request import Finish

LABEL: Final = "{label}"
MOST: Final = 10_000


def classify(
    model: Model, text: str, labels: Sequence[str], prompt: str | None, answer: str
) -> Classification:
    """Score every label as the whole answer, the prompt and what labels have in common computed once.

    The probability of a label is that of its tokens one after the other and then the answer's end; of the ways to spell
    it the tokenizer's own counts. Raises ``InputError`` for labels that are none, and for a prompt that doesn't fit.
    """
    from edgekit.runtimes.request import Request

    begun = perf_counter()
    _check(labels, answer)
    check("text", text, str, "a text")
    scheduler = model._scheduler
    asked = model.tokens(model.messages(model.extraction_prompt(text, prompt)))
    said = [model.said(answer.replace(LABEL, label, 1)) for label in labels]
    events: SimpleQueue[tuple[int, str | Finish | BaseException]] = SimpleQueue()
    # In the order of their tokens: labels that begin alike come one after the other and share that too.
    order = sorted(range(len(labels)), key=said.__getitem__)
    tickets = [
        scheduler.ticket(
            asked,
            Request(answer=tuple(said[index]), trace=True),
            lambda event, index=index: events.put((index, event)),  # type: ignore[misc]
        )
        for index in order
    ]
    scheduler.submit(*tickets)
    scores = [-math.inf] * len(labels)
    try:
        missing = len(labels)
        while missing:
            index, event = events.get()
            if isinstance(event, BaseException):
                raise event
            if not isinstance(event, str):
                assert event.trace is not None
                scores[index] = sum(event.trace.logprobs)
                missing -= 1
    finally:
        for ticket in tickets:
            if not ticket.over:
                scheduler.cancel(ticket)
    return _distribution(labels, scores, perf_counter() - begun)


def _check(labels: Sequence[str], answer: str) -> None:
    check("answer", answer, str, "a text")
    check("labels", labels, (list, tuple), "a list of texts")
    if not all(isinstance(label, str) and label for label in labels):
        raise InputError("labels are a list of texts, none of them empty", found=repr(labels)[:100])
    if not 1 <= len(labels) <= MOST:
        raise InputError("the number of labels is out of range", found=len(labels), expected=f"1 to {MOST}")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise InputError("a label is there twice", found=twice)
    if LABEL not in answer:
        raise InputError(f"the answer has no place for the label: {LABEL}", found=answer[:200])


def _distribution(labels: Sequence[str], scores: list[float], seconds: float) -> Classification:
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    total = sum(weights)
    by_label = dict(zip(labels, (weight / total for weight in weights), strict=True))
    mass = min(1.0, math.exp(top + math.log(total)))
    return Classification(max(by_label, key=by_label.__getitem__), by_label, mass, seconds)
