"""What labelled records say of a model, as plain values: fields, labels, validity, and what changed against a reference."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from edgekit.evaluation.statistics import Difference, Estimate
from edgekit.metrics import Counts

NO_ANSWER: Final = "(no answer)"
NULL: Final = "(null)"


class Answer(msgspec.Struct, frozen=True):
    """What a model answered to one record: its data, or the code of the failure and no data."""

    data: dict[str, Any] | None
    failure: str | None = None


class FieldFigures(msgspec.Struct, frozen=True):
    """One field, or one label: how many are right, found and expected, and the shares of these."""

    right: int
    found: int
    expected: int
    precision: float
    recall: float
    f1: float
    f1_interval: tuple[float, float] | None = None
    """95 % bootstrap interval over records; of a label there is none."""

    @classmethod
    def of(cls, counts: Counts, f1: Estimate | None = None) -> FieldFigures:
        """The shares of the counts."""
        interval = None if f1 is None else (f1.low, f1.high)
        shares = counts.precision, counts.recall, counts.f1
        return cls(counts.right, counts.found, counts.expected, *shares, interval)


class Macro(msgspec.Struct, frozen=True):
    """Means over the fields, however often each occurs."""

    precision: float
    recall: float
    f1: Estimate


class ClassFigures(msgspec.Struct, frozen=True):
    """A field that takes one of a few labels."""

    accuracy: Estimate
    f1_macro: float
    """The mean over the labels that were expected or answered."""
    labels: list[str]
    confusion: list[list[int]]
    """By expected label (row) and answered label (column), in the order of ``labels``."""
    by_label: dict[str, FieldFigures]


class Change(msgspec.Struct, frozen=True):
    """A record that is answered otherwise than by the reference."""

    id: str
    kind: str
    """``lost``: right before, wrong now; ``gained``: the other way; ``other``: wrong both times."""
    expected: dict[str, Any]
    reference: dict[str, Any] | None
    candidate: dict[str, Any] | None


class Flips(msgspec.Struct, frozen=True):
    """Answers that changed against the reference, and whether right ones became fewer by more than chance."""

    share: Estimate
    lost: int
    gained: int
    other: int
    mcnemar: float
    """Exact two-sided p that as many are gained as lost."""
    f1_drop: Difference
    exact_drop: Difference
    changes: list[Change]


class TaskFigures(msgspec.Struct, frozen=True):
    """What the records say of one model."""

    records: int
    valid: Estimate
    """Share of answers that satisfy the schema."""
    failures: dict[str, int]
    """How many answers failed, by the reason's code."""
    micro: FieldFigures
    """All fields of all records together."""
    macro: Macro
    exact: Estimate
    """Share of records with every field right."""
    fields: dict[str, FieldFigures]
    classes: dict[str, ClassFigures]
    reference: Flips | None = None
