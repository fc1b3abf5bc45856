"""The sampler: bounds, order of operations, the same tokens for the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.runtimes.engine import Logits
from edgekit.runtimes.sampling import GREEDY, Sampler, Sampling, _nucleus


def logits_of(*probabilities: float) -> Logits:
    logits: Logits = np.log(np.array(probabilities)).astype(np.float32)
    return logits


def drawn(sampling: Sampling, *probabilities: float, times: int = 2000) -> Counter[int]:
    sampler, logits = Sampler(sampling), logits_of(*probabilities)
    return Counter(sampler.pick(logits, []) for _ in range(times))


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    assert Sampler(GREEDY).pick(logits_of(0.1, 0.4, 0.4, 0.1), []) == 1


def test_the_same_seed_gives_these_very_tokens() -> None:
    sampler = Sampler(Sampling(temperature=1.0, seed=7))
    logits = logits_of(*[0.1] * 10)
    assert [sampler.pick(logits, []) for _ in range(8)] == [3, 1, 6, 0, 5, 3, 0, 5]


def test_draws_follow_the_probabilities() -> None:
    counts = drawn(Sampling(temperature=1.0, seed=1), 0.7, 0.2, 0.1)
    assert 0.66 < counts[0] / 2000 < 0.74
    assert 0.07 < counts[2] / 2000 < 0.13


def test_a_low_temperature_sharpens() -> None:
    counts = drawn(Sampling(temperature=0.5, seed=1), 0.6, 0.4)
    assert 0.65 < counts[0] / 2000 < 0.74  # 0.36 / (0.36 + 0.16) = 0.69


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (Sampling(temperature=1.0, top_k=2, seed=0), {0, 3}),
        (Sampling(temperature=1.0, top_p=0.5, seed=0), {0, 3}),
        (Sampling(temperature=1.0, top_p=0.1, seed=0), {0}),
        (Sampling(temperature=1.0, min_p=0.5, seed=0), {0, 3}),
        (Sampling(temperature=1.0, min_p=1.0, seed=0), {0}),
        (Sampling(temperature=1.0, top_k=99, seed=0), {0, 1, 2, 3}),
        # Top-p looks at the probabilities before the temperature flattens them.
        (Sampling(temperature=50.0, top_p=0.5, seed=0), {0, 3}),
    ],
)
def test_filters_keep(sampling: Sampling, possible: set[int]) -> None:
    assert set(drawn(sampling, 0.4, 0.15, 0.15, 0.3)) == possible


def test_equal_logits_are_kept_by_id() -> None:
    assert set(drawn(Sampling(temperature=1.0, top_k=2, seed=0), 0.25, 0.25, 0.25, 0.25)) == {0, 1}


def test_repetition_penalty_weakens_what_was_said() -> None:
    sampler = Sampler(Sampling(repetition_penalty=2.0))
    logits = np.array([3.0, 2.0, -1.0], np.float32)
    assert sampler.pick(logits, [0]) == 1
    assert sampler.pick(np.array([-1.0, -1.5], np.float32), [0]) == 1
    assert sampler.pick(logits, []) == 0
    assert logits.tolist() == [3.0, 2.0, -1.0]


def test_repetition_window_ends() -> None:
    sampler = Sampler(Sampling(repetition_penalty=2.0, repetition_window=2))
    assert sampler.pick(np.array([3.0, 2.0, 1.0], np.float32), [0, 2, 2]) == 0


@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40),
    st.integers(0, 50),
    st.floats(0.01, 1),
    st.floats(0, 1),
    st.floats(0.1, 3),
    st.integers(0, 2**32),
)
def test_what_is_forbidden_is_never_drawn(
    values: list[float], top_k: int, top_p: float, min_p: float, temperature: float, seed: int
) -> None:
    logits = np.array([*values, *[-np.inf] * 5], np.float32)
    before = logits.copy()
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed, repetition_penalty=1.3
    )
    assert Sampler(sampling).pick(logits, [0, len(values)]) < len(values)
    assert np.array_equal(logits, before)


def test_nothing_possible_is_an_error() -> None:
    with pytest.raises(InputError, match="no token is possible"):
        Sampler(Sampling(temperature=1.0)).pick(np.full(4, -np.inf, np.float32), [])


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"repetition_window": -1},
    ],
)
def test_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} is out of range"):
        Sampling(**options)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 1024), min_size=1, max_size=300), st.integers(1, 1023))
def test_the_nucleus_is_that_of_a_full_sort(parts: list[int], share: int) -> None:
    # Whole multiples of 1/1024: every sum is exact, in any order.
    weights = np.asarray([*parts, 1024], np.float32) / np.float32(1024)
    order = np.argsort(-weights, kind="stable")
    sums = np.cumsum(weights[order], dtype=np.float64)
    count = int(np.searchsorted(sums, share / 1024 * sums[-1])) + 1
    assert np.flatnonzero(_nucleus(weights, share / 1024)).tolist() == sorted(order[:count].tolist())
