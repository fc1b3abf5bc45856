"""Fields that take one of a few labels: which these are, how often they are right, and what is taken for what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.evaluation.figures import NO_ANSWER, NULL, Answer, ClassFigures, FieldFigures
from edgekit.evaluation.statistics import Estimate
from edgekit.labelled import Labelled
from edgekit.metrics import Counts


def label_fields(schema: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The fields of a record that take one of a few labels, with these: an ``enum``, or true and false; null aside."""
    properties = schema.get("properties")
    found = {}
    for name, kind in properties.items() if isinstance(properties, Mapping) else ():
        labels = _labels(kind, schema)
        if len(labels) > 1:
            found[name] = labels
    return found


def _labels(kind: Any, schema: Mapping[str, Any]) -> list[Any]:
    kind = _resolved(kind, schema)
    for union in ("anyOf", "oneOf"):
        if isinstance(kind.get(union), list):  # how pydantic writes a label that may be missing
            some = [one for part in kind[union] if (one := _resolved(part, schema)).get("type") != "null"]
            kind = some[0] if len(some) == 1 else {}
    if isinstance(kind.get("enum"), list):
        return [label for label in kind["enum"] if label is not None]
    return [True, False] if kind.get("type") in ("boolean", ["boolean", "null"], ["null", "boolean"]) else []


def _resolved(kind: Any, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference into ``$defs`` stands for, one step far: how pydantic writes an Enum."""
    if isinstance(kind, Mapping) and isinstance(kind.get("$ref"), str):
        defs = schema.get("$defs")
        kind = defs.get(kind["$ref"].removeprefix("#/$defs/")) if isinstance(defs, Mapping) else None
    return kind if isinstance(kind, Mapping) else {}


def pairs(name: str, records: Sequence[Labelled], answers: Sequence[Answer]) -> list[tuple[str, str]]:
    """Each record's expected and answered label of one field."""
    return [
        (_label(record.expected.get(name)), NO_ANSWER if one.data is None else _label(one.data.get(name)))
        for record, one in zip(records, answers, strict=True)
    ]


def _label(value: Any) -> str:
    if value is None:
        return NULL
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def confusion(pairs: Sequence[tuple[str, str]], labels: Sequence[Any], accuracy: Estimate) -> ClassFigures:
    """The figures of one field: which labels were answered where which were expected."""
    seen = sorted({label for pair in pairs for label in pair})
    listed = list(dict.fromkeys([*map(_label, labels), *seen]))
    at = {label: index for index, label in enumerate(listed)}
    matrix = np.zeros((len(listed), len(listed)), np.int64)
    for wanted, got in pairs:
        matrix[at[wanted], at[got]] += 1
    counts = {
        label: Counts(int(matrix[i, i]), int(matrix[:, i].sum()), int(matrix[i].sum()))
        for i, label in enumerate(listed)
        if label != NO_ANSWER
    }
    used = [one.f1 for one in counts.values() if one.found or one.expected]
    return ClassFigures(
        accuracy=accuracy,
        f1_macro=float(np.mean(used)),
        labels=listed,
        confusion=matrix.tolist(),
        by_label={label: FieldFigures.of(one) for label, one in counts.items()},
    )
