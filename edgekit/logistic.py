"""Logistic regression with a prior, by Newton's method: small, exact, the same on every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
_STEPS: Final = 100
_CLOSE: Final = 1e-9


def fit(
    features: Vector, right: Vector, mean: Vector, precision: Vector, rising: Sequence[int] = ()
) -> Vector:
    """The likeliest weights ``(k,)`` of ``features`` ``(n, k)`` for outcomes ``right`` ``(n,)``, each 0 or 1.

    Weights have independent normal priors of this mean and precision, so there is one answer for any data. Those in
    ``rising`` are held at zero where they would come out negative.
    """
    free = np.ones(len(mean), bool)
    while True:
        weights = _newton(features, right, np.where(free, mean, 0.0), precision, free)
        worst = min(rising, key=lambda index: weights[index], default=None)
        if worst is None or weights[worst] >= 0:
            return weights
        free[worst] = False


def _newton(
    features: Vector, right: Vector, mean: Vector, precision: Vector, free: NDArray[np.bool_]
) -> Vector:
    weights = mean.copy()
    used = features[:, free]
    cost = _cost(features, right, weights, mean, precision)
    for _ in range(_STEPS):
        chance = probability(features @ weights)
        slope = used.T @ (chance - right) + precision[free] * (weights - mean)[free]
        curve = (used.T * (chance * (1 - chance))) @ used + np.diag(precision[free])
        step = np.linalg.solve(curve, slope)
        size = 1.0
        while size > _CLOSE:  # a full step can overshoot where the data are nearly separable
            trial = weights.copy()
            trial[free] -= size * step
            trial_cost = _cost(features, right, trial, mean, precision)
            if trial_cost <= cost:
                break
            size /= 2
        else:
            break
        weights, cost = trial, trial_cost
        if np.abs(size * step).max(initial=0.0) < _CLOSE:
            break
    return weights


def probability(log_odds: Vector) -> Vector:
    """From log-odds to chances, without overflow."""
    chances: Vector = np.exp(-np.logaddexp(0.0, -log_odds))
    return chances


def _cost(features: Vector, right: Vector, weights: Vector, mean: Vector, precision: Vector) -> float:
    log_odds = features @ weights
    misfit = np.logaddexp(0.0, log_odds) - right * log_odds
    return float(misfit.sum() + 0.5 * (precision * (weights - mean) ** 2).sum())
