"""How sure a model was of each field of an answer: what its token probabilities say before any calibration."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from edgekit.errors import InputError
from edgekit.spans import Span, spans

LIMIT: Final = 14.0
"""Log-odds and margins are cut off here: a millionth more or less is no evidence."""
_NUMBER: Final = frozenset(b"-0123456789")


@dataclass(frozen=True)
class Trace:
    """An answer under a schema, token by token. The three lists have one length."""

    pieces: list[bytes]
    """What each token stands for; all of them together are the answer."""
    logprobs: list[float]
    """Natural logarithm of the token's probability among those that the schema allowed there; 0 where it forced it."""
    runner_up: list[float]
    """The same of the best other token; minus infinity where there was none."""

    def __post_init__(self) -> None:
        lengths = len(self.pieces), len(self.logprobs), len(self.runner_up)
        if len(set(lengths)) != 1:
            raise InputError("a trace's lists differ in length", found=lengths)

    @property
    def answer(self) -> bytes:
        """The whole answer."""
        return b"".join(self.pieces)


class Evidence(NamedTuple):
    """What speaks for and against one leaf of an answer."""

    path: str
    logprob: float
    """Of all decisions that made the value what it is: null or not, each token, and where it ends."""
    margin: float
    """The narrowest lead of a token over its best competitor, in nats."""
    null: bool
    unseen: bool
    """A string or number that doesn't occur in the text, whatever its case."""

    def features(self) -> tuple[float, float, float, bool, bool]:
        """What a calibration weighs: 1, the log-odds of the value, margin, null, unseen."""
        return 1.0, log_odds(self.logprob), self.margin, self.null, self.unseen


class Answer(NamedTuple):
    """The evidence of one answer by leaf."""

    leaves: list[Evidence]
    structure: float
    """Log-probability of the decisions that belong to no leaf, such as to end an array."""
    logprob: float
    """Log-probability of the whole answer, each token once."""

    def raw(self) -> tuple[dict[str, float], float]:
        """Uncalibrated confidence by path, and overall: the probabilities of the value and of the whole answer."""
        by_path = {leaf.path: math.exp(min(0.0, leaf.logprob)) for leaf in self.leaves}
        return by_path, math.exp(min(0.0, self.logprob))


def evidence(trace: Trace, text: str | None = None) -> Answer:
    """Weigh a complete answer leaf by leaf; ``text`` is what it was extracted from.

    Raises ``InputError`` if the answer isn't compact JSON, as when it was cut off.
    """
    answer = trace.answer
    leaves = spans(answer)
    logprobs, margins, structure = _charge(trace, answer, leaves)
    lowered = None if text is None else text.lower()
    found = []
    for leaf, logprob, margin in zip(leaves, logprobs, margins, strict=True):
        start = answer[leaf.start]
        unseen = False
        if lowered is not None and (start == 34 or start in _NUMBER):
            unseen = _value(answer[leaf.start : leaf.end]).lower() not in lowered
        found.append(Evidence(leaf.path, logprob, margin, start == 110, unseen))
    return Answer(found, structure, sum(trace.logprobs))


def log_odds(logprob: float) -> float:
    """From ln p to ln p/(1-p), cut off at ``LIMIT`` on both sides."""
    if logprob > -1e-6:  # p/(1-p) above a million
        return LIMIT
    return max(-LIMIT, min(LIMIT, logprob - math.log(-math.expm1(logprob))))


def _value(literal: bytes) -> str:
    """A string without quotes and escapes, a number as it is written."""
    if literal[:1] != b'"':
        return literal.decode()
    if b"\\" in literal:
        return str(json.loads(literal))
    return literal[1:-1].decode("utf-8", "replace")


def _charge(trace: Trace, answer: bytes, leaves: list[Span]) -> tuple[list[float], list[float], float]:
    """Log-probability and margin by leaf, and the log-probability of what is left.

    A token counts for every leaf whose value it touches. One that touches none (a key, a colon) decides whether and how
    the next leaf begins, so it counts there. A number's end shows only in the byte after it. A token such as ``","``
    ends its string and begins nothing that was open, so the next leaf isn't charged for it.
    """
    count = len(leaves)
    starts = [leaf.start for leaf in leaves]
    limits = [leaf.end + (answer[leaf.start] in _NUMBER) for leaf in leaves]
    logprobs, margins = [0.0] * count, [LIMIT] * count
    structure, at, current = 0.0, 0, 0
    for piece, logprob, runner_up in zip(trace.pieces, trace.logprobs, trace.runner_up, strict=True):
        stop = at + (len(piece) or 1)  # the end of an answer has no bytes, and ends a number all the same
        while current < count and limits[current] <= at:
            current += 1
        at += len(piece)
        if logprob == 0.0 and runner_up == -math.inf:
            continue
        if current == count:
            structure += logprob
            continue
        margin = max(-LIMIT, logprob - runner_up)
        leaf = current
        while True:
            logprobs[leaf] += logprob
            margins[leaf] = min(margins[leaf], margin)
            leaf += 1
            if leaf == count or starts[leaf] >= stop:
                break
    return logprobs, margins, structure
