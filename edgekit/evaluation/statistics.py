"""How sure a measurement on a sample of records is: seeded bootstrap intervals, and tests of paired answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 2000
LEVEL: Final = 0.95
_BLOCK: Final = 1 << 22
"""Entries of a block of drawn indices: 32 MiB."""

Statistic = Callable[[NDArray[np.float64]], float]
"""A figure of a row of sums."""


class Estimate(msgspec.Struct, frozen=True):
    """A figure with its 95 % bootstrap interval over records."""

    value: float
    low: float
    high: float


class Difference(msgspec.Struct, frozen=True):
    """A paired difference with its interval, and how likely one as large is by chance."""

    value: float
    low: float
    high: float
    p: float


def resampled_sums(rows: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Sums ``(resamples, columns)`` over as many records as there are, drawn with replacement.

    ``rows`` is ``(records, columns)``. The same seed and number of records draw the same records, whatever the
    columns: what is measured on the same records stays paired.
    """
    count = len(rows)
    random, sums = np.random.default_rng(seed), []
    while resamples:
        some = min(resamples, max(1, _BLOCK // count))
        drawn = random.integers(count, size=(some, count))
        times = np.stack([np.bincount(one, minlength=count) for one in drawn])
        sums.append(times @ rows)
        resamples -= some
    return np.concatenate(sums)


class Sample:
    """Records' rows, summed over all of them and over every resample: each figure is a statistic of such sums."""

    def __init__(self, rows: NDArray[np.float64], *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.sums = rows.sum(0)
        self.resampled = resampled_sums(rows, resamples, seed)

    def interval(self, statistic: Statistic) -> Estimate:
        """The figure with its percentile interval (Efron)."""
        low, high = _ends(np.array([statistic(one) for one in self.resampled]))
        return Estimate(statistic(self.sums), low, high)

    def less(self, other: Sample, statistic: Statistic) -> Difference:
        """This figure less another's on the same records (and seed), with interval and two-sided bootstrap p.

        The p-value counts the resamples on the other side of no difference, the sample itself included, so it is
        never 0.
        """
        pairs = zip(self.resampled, other.resampled, strict=True)
        found = np.array([statistic(one) - statistic(two) for one, two in pairs])
        below, above = int((found <= 0).sum()), int((found >= 0).sum())
        p = min(1.0, 2 * (min(below, above) + 1) / (len(found) + 1))
        return Difference(statistic(self.sums) - statistic(other.sums), *_ends(found), p)


def _ends(found: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mcnemar(lost: int, gained: int) -> float:
    """McNemar's exact two-sided p: that of ``lost + gained`` changes, each as likely either way, so many go one way."""
    count, least = lost + gained, min(lost, gained)
    if count == 0:
        return 1.0
    term = tail = 1
    for k in range(least):
        term = term * (count - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << count))


def share(column: int, of: int) -> Statistic:
    """One summed column over another."""

    def statistic(sums: NDArray[Any]) -> float:
        return float(sums[column] / sums[of]) if sums[of] else 0.0

    return statistic
