"""How well extracted records match the expected ones: the one place that says what a right field is, and what F1 is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Counts:
    """Fields that are right, that were found, and that were expected."""

    right: int = 0
    found: int = 0
    expected: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.right + other.right, self.found + other.found, self.expected + other.expected)

    @property
    def precision(self) -> float:
        """The share of the found that is right; 0 where nothing was found."""
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """The share of the expected that is right; 0 where nothing was expected."""
        return self.right / self.expected if self.expected else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of both; 0 where nothing is right."""
        precision, recall = self.precision, self.recall
        return 2 * precision * recall / (precision + recall) if self.right else 0.0


@dataclass(frozen=True)
class FieldScore:
    """Micro-averaged over all fields of all records; a field is right if it is the same text after strip."""

    precision: float
    recall: float
    f1: float
    records_right: float


def score_fields(pairs: Iterable[tuple[Record | None, Record]]) -> FieldScore:
    """Score (found, expected) records; null and absent are the same; a missing record has no fields."""
    counts, whole, total = Counts(), 0, 0
    for found, expected in pairs:
        counts = sum(count_fields(found, expected).values(), counts)
        whole += same_record(found, expected)
        total += 1
    return FieldScore(counts.precision, counts.recall, counts.f1, whole / total if total else 0.0)


def count_fields(found: Record | None, expected: Record) -> dict[str, Counts]:
    """The counts of one record by field, for every field that has a value on either side."""
    got, wanted = values(found or {}), values(expected)
    return {
        name: Counts(
            int(name in got and name in wanted and got[name] == wanted[name]),
            int(name in got),
            int(name in wanted),
        )
        for name in wanted | got
    }


def same_record(found: Record | None, expected: Record) -> bool:
    """Whether a record was found and every field of it is right."""
    return found is not None and values(found) == values(expected)


def values(record: Record) -> dict[str, Any]:
    """The fields that have a value, texts stripped."""
    stripped = {name: v.strip() if isinstance(v, str) else v for name, v in record.items()}
    return {name: value for name, value in stripped.items() if value is not None}
