"""Intervals and tests, against scipy's."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.evaluation.statistics import Sample, mcnemar, resampled_sums, share


def test_mcnemar_is_the_binomial_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    for lost, gained in [(0, 0), (0, 1), (1, 0), (3, 9), (9, 3), (7, 7), (25, 40), (300, 200)]:
        exact = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
        assert mcnemar(lost, gained) == pytest.approx(exact, rel=1e-9)


def test_the_interval_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    right = (np.random.default_rng(3).random(300) < 0.8).astype(np.float64)
    rows = np.stack([right, np.ones(300)], 1)
    ours = Sample(rows, resamples=20_000).interval(share(0, 1))
    theirs = stats.bootstrap(
        (right,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(4)
    ).confidence_interval
    assert ours.value == right.mean()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_the_same_seed_draws_the_same_records() -> None:
    rows = np.eye(50)
    once, wide = resampled_sums(rows, 100, 5), resampled_sums(np.concatenate([rows, rows], 1), 100, 5)
    assert (wide[:, :50] == once).all() and (wide[:, 50:] == once).all()
    assert (once.sum(1) == 50).all() and (resampled_sums(rows, 100, 6) != once).any()


def test_many_records_are_drawn_in_blocks() -> None:
    rows = np.ones((3_000_000, 1))
    assert resampled_sums(rows, 3, 0).tolist() == [[3e6]] * 3


def two(before: list[float], after: list[float]) -> tuple[Sample, Sample]:
    ones = np.ones(len(before))
    return Sample(np.stack([before, ones], 1), seed=1), Sample(np.stack([after, ones], 1), seed=1)


def test_a_difference_is_paired() -> None:
    """Both change much from record to record, always by the same: alone each is unsure, their difference is not."""
    noise = list(np.random.default_rng(0).random(100))
    before, after = two([one + 0.1 for one in noise], noise)
    found = before.less(after, share(0, 1))
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.p == pytest.approx(2 / 2001)
    assert before.interval(share(0, 1)).high - before.interval(share(0, 1)).low > 0.05


def test_no_difference_and_a_doubtful_one() -> None:
    before, after = two([1.0, 0.0] * 20, [1.0, 0.0] * 20)
    same = before.less(after, share(0, 1))
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    before, after = two([1.0, 1.0, 0.0] + [1.0] * 40, [0.0, 1.0, 0.0] + [1.0] * 40)
    assert before.less(after, share(0, 1)).p > 0.3  # one record of 43
    before, after = two([1.0] * 100, [0.0] * 12 + [1.0] * 88)
    found = before.less(after, share(0, 1))
    assert found.value == pytest.approx(0.12) and found.p < 0.01 and 0 < found.low < 0.12 < found.high


def test_the_paired_p_is_near_mcnemars() -> None:
    before, after = two([1.0] * 14 + [0.0] * 6 + [1.0] * 180, [0.0] * 14 + [1.0] * 6 + [1.0] * 180)
    assert before.less(after, share(0, 1)).p == pytest.approx(mcnemar(14, 6), abs=0.05)
