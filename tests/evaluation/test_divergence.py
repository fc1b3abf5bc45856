"""Likelihoods and KL divergences of rows of logits, against the definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.evaluation.divergence import Comparer, NotFinite


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return found


@pytest.mark.parametrize(("rows", "vocab"), [(1, 2), (63, 384), (7, 100_003), (300, 700)])
def test_by_definition(rows: int, vocab: int) -> None:
    random = np.random.default_rng(vocab)
    one = (random.standard_normal((rows, vocab)) * 4).astype(np.float32)
    two = one + random.standard_normal((rows, vocab)).astype(np.float32)
    targets = random.integers(vocab, size=rows)
    first, second = Comparer(vocab).compare([one, two], targets)
    p, q = log_softmax(one), log_softmax(two)
    at = np.arange(rows)
    assert first.nll == pytest.approx(-p[at, targets], rel=1e-6, abs=1e-6)
    assert second.nll == pytest.approx(-q[at, targets], rel=1e-6, abs=1e-6)
    assert second.kld == pytest.approx((np.exp(p) * (p - q)).sum(1), rel=1e-5, abs=1e-6)
    assert (first.top == one.argmax(1)).all() and (second.top == two.argmax(1)).all()
    assert not first.kld.any()


def test_small_divergences_keep_their_digits() -> None:
    random = np.random.default_rng(1)
    one = (random.standard_normal((500, 4096)) * 3).astype(np.float32)
    two = one + (random.standard_normal(one.shape) * 1e-2).astype(np.float32)
    found = Comparer(4096).compare([one, two], np.zeros(500, np.intp))[1].kld
    p, q = log_softmax(one), log_softmax(two)
    exact = (np.exp(p) * (p - q)).sum(1)
    assert exact.mean() < 1e-4 and found.mean() == pytest.approx(exact.mean(), rel=1e-3)
    assert np.abs(found - exact).max() < 1e-6


def test_logits_far_apart_and_the_same_model() -> None:
    far = np.array([[1e4, -1e4, 0], [-1e38, 1e38, 0]], np.float32)
    same, other = Comparer(3).compare([far, far.copy()], np.array([0, 1]))
    assert same.nll.tolist() == other.nll.tolist() == [0, 0] and not other.kld.any()


def test_logits_too_far_apart_for_float32() -> None:
    with pytest.raises(NotFinite):
        Comparer(2).compare([np.array([[-3e38, 3e38]], np.float32)], np.array([0]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("model", [0, 1])
def test_what_is_not_finite_is_found(model: int, value: float) -> None:
    logits = [np.zeros((300, 700), np.float32) for _ in range(2)]
    logits[model][257, 3] = value
    with pytest.raises(NotFinite) as caught:
        Comparer(700).compare(logits, np.zeros(300, np.intp))
    assert (caught.value.model, caught.value.row) == (model, 257)
    assert caught.value.value == value or np.isnan(value)
