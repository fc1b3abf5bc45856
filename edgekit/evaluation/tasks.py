"""Hold answers against labels, and against a reference's answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit.evaluation.figures import Answer, Change, ClassFigures, FieldFigures, Flips, Macro, TaskFigures
from edgekit.evaluation.labels import confusion, label_fields, pairs
from edgekit.evaluation.statistics import Sample, Statistic, mcnemar, share
from edgekit.labelled import Labelled
from edgekit.metrics import Counts, count_fields, same_record, values

Rows = NDArray[np.float64]

_ALL, _EXACT, _VALID, _CHANGED, _ONE, _FIELDS = 0, 3, 4, 5, 6, 7
"""Columns of a record's row: right, found and expected of all fields; whether it is all right, valid, another than
the reference's; 1; then right, found and expected of each field, and whether each label is right."""
_EXACT_SHARE: Final = share(_EXACT, _ONE)


def _counts(sums: Rows, at: int) -> Counts:
    return Counts(*(int(one) for one in sums[at : at + 3]))


def _f1(at: int) -> Statistic:
    return lambda sums: _counts(sums, at).f1


def measure(
    records: Sequence[Labelled],
    answers: Sequence[Answer],
    schema: Mapping[str, Any],
    reference: Sequence[Answer] | None = None,
    *,
    seed: int = 0,
) -> TaskFigures:
    """Hold answers, in the order of the records, against the labels, and against a reference's answers."""
    found = [count_fields(answer.data, one.expected) for answer, one in zip(answers, records, strict=True)]
    names = _names(schema, {name for one in found for name in one})
    classes = {name: pairs(name, records, answers) for name in label_fields(schema)}
    rows = _rows(records, answers, found, names, list(classes.values()))
    if reference is not None:
        both = zip(reference, answers, strict=True)
        rows[:, _CHANGED] = [not _same_answer(one, other) for one, other in both]
    sample = Sample(rows, seed=seed)
    places = {name: _FIELDS + 3 * i for i, name in enumerate(names)}
    return TaskFigures(
        records=len(records),
        valid=sample.interval(share(_VALID, _ONE)),
        failures=dict(sorted(Counter(one.failure for one in answers if one.failure is not None).items())),
        micro=_figures(sample, _ALL),
        macro=_macro(sample, list(places.values())),
        exact=sample.interval(_EXACT_SHARE),
        fields={name: _figures(sample, at) for name, at in places.items()},
        classes=_classes(schema, classes, sample, _FIELDS + 3 * len(names)),
        reference=None if reference is None else _flips(records, answers, reference, sample, seed),
    )


def _names(schema: Mapping[str, Any], seen: set[str]) -> list[str]:
    """Fields in the schema's order, then any others by name."""
    properties = schema.get("properties")
    listed = list(properties) if isinstance(properties, Mapping) else []
    return [name for name in listed if name in seen] + sorted(seen - set(listed))


def _rows(
    records: Sequence[Labelled],
    answers: Sequence[Answer],
    found: Sequence[Mapping[str, Counts]],
    names: Sequence[str],
    labels: Sequence[Sequence[tuple[str, str]]],
) -> Rows:
    """A row for each record."""
    rows = np.zeros((len(records), _FIELDS + 3 * len(names) + len(labels)))
    for row, record, answer, counts in zip(rows, records, answers, found, strict=True):
        total = sum(counts.values(), Counts())
        row[:_EXACT] = total.right, total.found, total.expected
        row[_EXACT:_FIELDS] = same_record(answer.data, record.expected), answer.data is not None, False, 1
        for i, name in enumerate(names):
            one = counts.get(name, Counts())
            row[_FIELDS + 3 * i : _FIELDS + 3 * i + 3] = one.right, one.found, one.expected
    for i, both in enumerate(labels):
        rows[:, _FIELDS + 3 * len(names) + i] = [wanted == got for wanted, got in both]
    return rows


def _figures(sample: Sample, at: int) -> FieldFigures:
    return FieldFigures.of(_counts(sample.sums, at), sample.interval(_f1(at)))


def _macro(sample: Sample, places: Sequence[int]) -> Macro:
    counts = [_counts(sample.sums, at) for at in places]
    count = max(1, len(places))

    def f1(sums: Rows) -> float:
        return sum(_counts(sums, at).f1 for at in places) / count

    precision, recall = sum(one.precision for one in counts), sum(one.recall for one in counts)
    return Macro(precision / count, recall / count, sample.interval(f1))


def _classes(
    schema: Mapping[str, Any], found: Mapping[str, Sequence[tuple[str, str]]], sample: Sample, start: int
) -> dict[str, ClassFigures]:
    labels = label_fields(schema)
    return {
        name: confusion(both, labels[name], sample.interval(share(start + i, _ONE)))
        for i, (name, both) in enumerate(found.items())
    }


def _flips(
    records: Sequence[Labelled],
    answers: Sequence[Answer],
    reference: Sequence[Answer],
    sample: Sample,
    seed: int,
) -> Flips:
    counts = [count_fields(answer.data, one.expected) for answer, one in zip(reference, records, strict=True)]
    before = Sample(_rows(records, reference, counts, [], []), seed=seed)
    changes = []
    for record, old, new in zip(records, reference, answers, strict=True):
        if _same_answer(old, new):
            continue
        was, now = same_record(old.data, record.expected), same_record(new.data, record.expected)
        kind = "lost" if was > now else "gained" if now > was else "other"
        changes.append(Change(record.id, kind, record.expected, old.data, new.data))
    kinds = Counter(change.kind for change in changes)
    return Flips(
        share=sample.interval(share(_CHANGED, _ONE)),
        lost=kinds["lost"],
        gained=kinds["gained"],
        other=kinds["other"],
        mcnemar=mcnemar(kinds["lost"], kinds["gained"]),
        f1_drop=before.less(sample, _f1(_ALL)),
        exact_drop=before.less(sample, _EXACT_SHARE),
        changes=changes,
    )


def _same_answer(one: Answer, other: Answer) -> bool:
    """Two failures are the same answer: none."""
    if one.data is None or other.data is None:
        return one.data is other.data
    return values(one.data) == values(other.data)
