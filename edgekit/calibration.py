"""Fit a confidence map on labelled answers, and measure it on answers that it hasn't seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgekit import logistic
from edgekit.calibration_error import figures, risks
from edgekit.confidence import Answer
from edgekit.confidence_map import (
    LEAF_WEIGHTS,
    RISING,
    VERSION,
    ConfidenceMap,
    Curve,
    FittedFor,
    field_of,
    record_features,
)
from edgekit.errors import InputError
from edgekit.logistic import Vector
from edgekit.reliability import Figures, Reliability

LEAST_RECORDS: Final = 50
LEAST_CASES: Final = 20
"""A field with fewer labelled cases shares one curve with all others."""
FOLDS: Final = 5

# Priors: the model's own probabilities are taken at their word until the data say otherwise, and a field is like all
# fields until its own cases say otherwise. Weights are per nat, so the same change of one matters more than of a flag.
_POOLED_MEAN: Final = np.array([0.0, 1.0, 0.0, 0.0, 0.0])
_POOLED_PRECISION: Final = np.full(5, 1.0)
_FIELD_PRECISION: Final = np.array([4.0, 50.0, 50.0, 4.0, 4.0])
_RECORD_MEAN: Final = np.array([0.0, 1.0, 0.0, 1.0])
_RECORD_PRECISION: Final = np.full(4, 1.0)


@dataclass(frozen=True)
class Judged:
    """One record's evidence, and what a label says of it: of each leaf, and of the whole."""

    id: str
    answer: Answer
    leaves: tuple[bool, ...]
    record: bool


def fold_of(record: str, folds: int) -> int:
    """The fold of a record, by the hash of its id: the same whatever else is in the file."""
    return int.from_bytes(hashlib.sha256(record.encode()).digest()[:8], "big") % folds


def fit(records: Sequence[Judged], target: FittedFor) -> ConfidenceMap:
    """The map for these records; ``InputError`` where there is too little to tell right from wrong."""
    check(records)
    return _fit(records, target)


def check(records: Sequence[Judged]) -> None:
    """``InputError`` unless there are enough records to fit on, some right and some wrong."""
    right = sum(record.record for record in records)
    if len(records) < LEAST_RECORDS:
        raise InputError(
            "too few labelled records to calibrate on",
            found=len(records),
            expected=f"{LEAST_RECORDS} or more",
        )
    if right in (0, len(records)):
        raise InputError(
            f"all {len(records)} records are {'right' if right else 'wrong'}: there is nothing to tell apart",
            next_step="label harder records too" if right else "check that the labels belong to this bundle",
        )


def _fit(records: Sequence[Judged], target: FittedFor) -> ConfidenceMap:
    pooled, fields = _fit_leaves(records)
    chances = _held_out_chances(records)
    features = np.array(
        [record_features(c, r.answer.structure) for c, r in zip(chances, records, strict=True)]
    )
    weights = logistic.fit(
        features, np.array([float(r.record) for r in records]), _RECORD_MEAN, _RECORD_PRECISION, RISING
    )
    return ConfidenceMap(VERSION, target, pooled, fields, Curve(_rounded(weights), len(records)))


def _fit_leaves(records: Sequence[Judged]) -> tuple[Curve, dict[str, Curve]]:
    rows = [leaf.features() for r in records for leaf in r.answer.leaves]
    features = np.array(rows).reshape(-1, LEAF_WEIGHTS)
    right = np.array([float(ok) for r in records for ok in r.leaves])
    names = np.array([field_of(leaf.path) for r in records for leaf in r.answer.leaves])
    weights = logistic.fit(features, right, _POOLED_MEAN, _POOLED_PRECISION, RISING)
    fields = {}
    for name in sorted(set(names.tolist())):
        mine = names == name
        if (count := int(mine.sum())) >= LEAST_CASES:
            own = logistic.fit(features[mine], right[mine], weights, _FIELD_PRECISION, RISING)
            fields[name] = Curve(_rounded(own), count)
    return Curve(_rounded(weights), len(right)), fields


def _rounded(weights: Vector) -> list[float]:
    """Six digits: last bits of linear algebra differ between machines."""
    return [float(f"{weight:.6g}") + 0.0 for weight in weights]


def _held_out_chances(records: Sequence[Judged]) -> list[list[float]]:
    """Each record's field chances from curves fitted without it: its own would flatter it."""
    folds = [fold_of(record.id, FOLDS) for record in records]
    curves = {
        fold: _fit_leaves([r for r, f in zip(records, folds, strict=True) if f != fold])
        for fold in set(folds)
    }
    chances = []
    for record, fold in zip(records, folds, strict=True):
        pooled, fields = curves[fold]
        leaves = record.answer.leaves
        chances.append([fields.get(field_of(leaf.path), pooled).chance(leaf.features()) for leaf in leaves])
    return chances


@dataclass(frozen=True)
class Outcomes:
    """Held-out confidences beside what was true, by leaf and by record: ``(cases,)`` arrays."""

    names: list[str]
    leaf_before: Vector
    leaf_after: Vector
    leaf_right: Vector
    before: Vector
    after: Vector
    right: Vector


def outcomes(records: Sequence[Judged], maps: Sequence[ConfidenceMap]) -> Outcomes:
    """What each record's map (one per record) says of it."""
    leaf, whole, names = [], [], []
    for record, fitted in zip(records, maps, strict=True):
        raw, raw_overall = record.answer.raw()
        chances, overall = fitted.apply(record.answer)
        whole.append((raw_overall, overall, record.record))
        for (path, chance), ok in zip(chances.items(), record.leaves, strict=True):
            names.append(field_of(path))
            leaf.append((raw[path], chance, ok))
    by_leaf, by_record = np.array(leaf, float), np.array(whole, float)
    return Outcomes(names, *by_leaf.T, *by_record.T)


def cross_fit(records: Sequence[Judged], target: FittedFor, folds: int = FOLDS) -> Outcomes:
    """Every record judged by a map that was fitted on the other folds."""
    check(records)
    places = [fold_of(record.id, folds) for record in records]
    if len(set(places)) < 2:
        raise InputError("the ids fall into one fold", found=places[0], next_step="give records other ids")
    maps = {}
    for fold in sorted(set(places)):
        maps[fold] = _fit([r for r, place in zip(records, places, strict=True) if place != fold], target)
    return outcomes(records, [maps[place] for place in places])


def figures_by_field(found: Outcomes) -> dict[str, Figures]:
    """The figures of each field, by name."""
    names = np.array(found.names)
    return {
        str(name): figures(
            found.leaf_before[names == name], found.leaf_after[names == name], found.leaf_right[names == name]
        )
        for name in sorted(set(found.names))
    }


def reliability(found: Outcomes, target: FittedFor, *, failed: int, folds: int, task: str) -> Reliability:
    """The figures to publish with a map."""
    return Reliability(
        records=len(found.right),
        failed=failed,
        folds=folds,
        task=task,
        output_schema=target.output_schema,
        prompt=target.prompt,
        fields=figures_by_field(found),
        all_fields=figures(found.leaf_before, found.leaf_after, found.leaf_right),
        overall=figures(found.before, found.after, found.right),
        risks=risks(found.after, found.right),
    )
