"""How well extracted records match the expected ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True)
class FieldScore:
    """Micro-averaged over all fields of all records; a field is right if it is the same text after strip."""

    precision: float
    recall: float
    f1: float
    records_right: float


def score_fields(pairs: Iterable[tuple[Record | None, Record]]) -> FieldScore:
    """Score (found, expected) records; null and absent are the same; a missing record has no fields."""
    right = found_count = expected_count = whole = total = 0
    for found, expected in pairs:
        got, wanted = _values(found or {}), _values(expected)
        right += sum(wanted.get(name) == value for name, value in got.items())
        found_count += len(got)
        expected_count += len(wanted)
        whole += found is not None and got == wanted
        total += 1
    precision = right / found_count if found_count else 0.0
    recall = right / expected_count if expected_count else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return FieldScore(precision, recall, f1, whole / total if total else 0.0)


def _values(record: Record) -> dict[str, Any]:
    stripped = {name: v.strip() if isinstance(v, str) else v for name, v in record.items()}
    return {name: value for name, value in stripped.items() if value is not None}
