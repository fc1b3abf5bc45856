"""What labelled records say of a model's answers: fields, labels, validity, and what changed against a reference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.evaluation.statistics import Difference, Estimate, interval, mcnemar, paired, share
from edgekit.labelled import Labelled
from edgekit.metrics import Counts, count_fields, same_record, values

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

    @classmethod
    def of(cls, counts: Counts) -> FieldFigures:
        """The shares of the counts."""
        return cls(counts.right, counts.found, counts.expected, counts.precision, counts.recall, counts.f1)


class ClassFigures(msgspec.Struct, frozen=True):
    """A field that takes one of a few labels."""

    accuracy: float
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

    share: float
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
    valid: float
    """Share of answers that satisfy the schema."""
    failures: dict[str, int]
    micro: FieldFigures
    f1: Estimate
    f1_macro: float
    exact: Estimate
    fields: dict[str, FieldFigures]
    classes: dict[str, ClassFigures]
    reference: Flips | None = None


_F1, _EXACT = slice(0, 3), share(3, 4)
"""Columns of a record's row: fields right, found and expected, whether all are right, and 1."""


def _f1(sums: NDArray[np.float64]) -> float:
    return Counts(*(int(one) for one in sums[_F1])).f1


def measure(
    records: Sequence[Labelled],
    answers: Sequence[Answer],
    schema: Mapping[str, Any],
    reference: Sequence[Answer] | None = None,
    *,
    seed: int = 0,
) -> TaskFigures:
    """Hold answers, in the order of the records, against the labels, and against a reference's answers."""
    rows, by_field = _rows(records, answers)
    fields = {name: by_field.get(name, Counts()) for name in _names(schema, by_field)}
    failures: dict[str, int] = {}
    for answer in answers:
        if answer.failure is not None:
            failures[answer.failure] = failures.get(answer.failure, 0) + 1
    return TaskFigures(
        records=len(records),
        valid=sum(answer.data is not None for answer in answers) / len(records),
        failures=dict(sorted(failures.items())),
        micro=FieldFigures.of(sum(by_field.values(), Counts())),
        f1=interval(rows, _f1, seed=seed),
        f1_macro=float(np.mean([one.f1 for one in fields.values()])) if fields else 0.0,
        exact=interval(rows, _EXACT, seed=seed),
        fields={name: FieldFigures.of(one) for name, one in fields.items()},
        classes=_classes(records, answers, schema),
        reference=None if reference is None else _flips(records, answers, reference, rows, seed),
    )


def _names(schema: Mapping[str, Any], seen: Mapping[str, Counts]) -> list[str]:
    """Fields in the schema's order, then any others by name."""
    properties = schema.get("properties")
    listed = list(properties) if isinstance(properties, Mapping) else []
    return [name for name in listed if name in seen] + sorted(seen.keys() - set(listed))


def _rows(
    records: Sequence[Labelled], answers: Sequence[Answer]
) -> tuple[NDArray[np.float64], dict[str, Counts]]:
    """Each record's row, and the counts of every field over all records."""
    rows, by_field = np.ones((len(records), 5)), dict[str, Counts]()
    for row, record, answer in zip(rows, records, answers, strict=True):
        counts = count_fields(answer.data, record.expected)
        for name, one in counts.items():
            by_field[name] = by_field.get(name, Counts()) + one
        total = sum(counts.values(), Counts())
        row[:4] = total.right, total.found, total.expected, same_record(answer.data, record.expected)
    return rows, by_field


def _flips(
    records: Sequence[Labelled],
    answers: Sequence[Answer],
    reference: Sequence[Answer],
    rows: NDArray[np.float64],
    seed: int,
) -> Flips:
    before = _rows(records, reference)[0]
    changes = []
    for record, old, new, was, now in zip(records, reference, answers, before[:, 3], rows[:, 3], strict=True):
        if _same_answer(old, new):
            continue
        kind = "lost" if was > now else "gained" if now > was else "other"
        changes.append(Change(record.id, kind, record.expected, old.data, new.data))
    kinds = [change.kind for change in changes]
    lost, gained = kinds.count("lost"), kinds.count("gained")
    return Flips(
        share=len(changes) / len(records),
        lost=lost,
        gained=gained,
        other=kinds.count("other"),
        mcnemar=mcnemar(lost, gained),
        f1_drop=paired(before, rows, _f1, seed=seed),
        exact_drop=paired(before, rows, _EXACT, seed=seed),
        changes=changes,
    )


def _same_answer(one: Answer, other: Answer) -> bool:
    """Two failures are the same answer: none."""
    if one.data is None or other.data is None:
        return one.data is other.data
    return values(one.data) == values(other.data)


def _classes(
    records: Sequence[Labelled], answers: Sequence[Answer], schema: Mapping[str, Any]
) -> dict[str, ClassFigures]:
    found = {}
    for name, labels in label_fields(schema).items():
        wanted = [_label(record.expected.get(name)) for record in records]
        got = [NO_ANSWER if one.data is None else _label(one.data.get(name)) for one in answers]
        listed = list(dict.fromkeys([*map(_label, labels), *sorted({*wanted, *got})]))
        found[name] = _confusion(wanted, got, listed)
    return found


def label_fields(schema: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The fields of a record that take one of a few labels, with these: an ``enum``, or true and false."""
    properties = schema.get("properties")
    found = {}
    for name, kind in properties.items() if isinstance(properties, Mapping) else ():
        kind = _resolved(kind, schema)
        if isinstance(kind.get("enum"), list) and len(kind["enum"]) > 1:
            found[name] = kind["enum"]
        elif kind.get("type") == "boolean":
            found[name] = [True, False]
    return found


def _resolved(kind: Any, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference into ``$defs`` stands for, one step far: how pydantic writes an Enum."""
    if isinstance(kind, Mapping) and isinstance(kind.get("$ref"), str):
        defs = schema.get("$defs")
        kind = defs.get(kind["$ref"].removeprefix("#/$defs/")) if isinstance(defs, Mapping) else None
    return kind if isinstance(kind, Mapping) else {}


def _label(value: Any) -> str:
    if value is None:
        return NULL
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _confusion(wanted: Sequence[str], got: Sequence[str], labels: list[str]) -> ClassFigures:
    at = {label: index for index, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(matrix, ([at[one] for one in wanted], [at[one] for one in got]), 1)
    counts = {
        label: Counts(int(matrix[i, i]), int(matrix[:, i].sum()), int(matrix[i].sum()))
        for i, label in enumerate(labels)
        if label != NO_ANSWER
    }
    used = [one.f1 for one in counts.values() if one.found or one.expected]
    return ClassFigures(
        accuracy=float(np.trace(matrix)) / len(wanted),
        f1_macro=float(np.mean(used)) if used else 0.0,
        labels=labels,
        confusion=matrix.tolist(),
        by_label={label: FieldFigures.of(one) for label, one in counts.items()},
    )
