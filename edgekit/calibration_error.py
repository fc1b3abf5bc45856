"""How far stated confidences can be trusted: calibration error, and the risk that is left at a coverage."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgekit.reliability import Figures, Risk

BINS: Final = 15
COVERAGES: Final = (1.0, 0.95, 0.9, 0.8, 0.7)
Vector = NDArray[np.float64]


def bins(confidence: Vector, count: int = BINS, *, width: bool = False) -> list[NDArray[np.intp]]:
    """Indices of cases, bin by bin: as many cases in each, or confidences 1/count apart; empty bins are left out."""
    if width:
        place = np.minimum((confidence * count).astype(int), count - 1)
        parts = [np.flatnonzero(place == index) for index in range(count)]
    else:
        parts = list(np.array_split(np.argsort(confidence, kind="stable"), count))
    return [part for part in parts if len(part)]


def calibration_error(confidence: Vector, right: Vector, *, width: bool = False) -> float:
    """Expected calibration error: by bin, the gap between mean confidence and accuracy, weighted by cases."""
    gaps = (
        len(part) * abs(confidence[part].mean() - right[part].mean())
        for part in bins(confidence, width=width)
    )
    return float(sum(gaps) / len(confidence))


def error_by_chance(confidence: Vector, draws: int = 50) -> float:
    """Mean calibration error of outcomes drawn with these very chances; the same on every run."""
    random = np.random.default_rng(0)
    found = [
        calibration_error(confidence, (random.random(len(confidence)) < confidence).astype(float))
        for _ in range(draws)
    ]
    return float(np.mean(found))


def figures(before: Vector, after: Vector, right: Vector) -> Figures:
    """All figures of some cases; rounded, so that they are the same bytes wherever they are computed."""
    return Figures(
        len(right),
        *(
            round(float(value), 6)
            for value in (
                right.mean(),
                after.mean(),
                calibration_error(before, right),
                calibration_error(after, right),
                calibration_error(before, right, width=True),
                calibration_error(after, right, width=True),
                error_by_chance(after),
            )
        ),
    )


def risk_coverage(confidence: Vector, right: Vector) -> Vector:
    """Risk at every coverage ``1/n … 1``, ``(n,)``: the share that is wrong among the most confident records."""
    order = np.argsort(-confidence, kind="stable")
    risks: Vector = np.cumsum(1 - right[order]) / np.arange(1, len(right) + 1)
    return risks


def risks(confidence: Vector, right: Vector) -> list[Risk]:
    """The risk at each of ``COVERAGES``."""
    curve, ordered = risk_coverage(confidence, right), -np.sort(-confidence)
    places = [max(0, round(coverage * len(right)) - 1) for coverage in COVERAGES]
    return [
        Risk(coverage, round(float(curve[place]), 6), round(float(ordered[place]), 6))
        for coverage, place in zip(COVERAGES, places, strict=True)
    ]
