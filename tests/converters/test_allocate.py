"""The allocation under a budget: against trying everything."""

from __future__ import annotations

import itertools

from gguf import GGMLQuantizationType as Q
from hypothesis import given
from hypothesis import strategies as st

from edgekit.converters.gguf.allocate import Option, allocate, kinds_for, nbytes_of, probe_for

KINDS = (Q.Q2_K, Q.Q4_K, Q.Q6_K, Q.F16)
tensors = st.lists(
    st.tuples(
        st.lists(st.integers(1, 60), min_size=1, max_size=4, unique=True),
        st.lists(st.floats(0, 10), min_size=4, max_size=4),
    ),
    min_size=1,
    max_size=5,
)


def options_of(drawn: list[tuple[list[int], list[float]]]) -> dict[str, list[Option]]:
    found = {}
    for at, (sizes, losses) in enumerate(drawn):
        places = zip(sorted(sizes), sorted(losses, reverse=True), KINDS, strict=False)
        found[f"t{at}"] = [Option(kind, 32 * size, loss) for size, loss, kind in places]
    return found


@given(tensors, st.integers(0, 32 * 300))
def test_no_allocation_that_fits_loses_less(drawn: list[tuple[list[int], list[float]]], budget: int) -> None:
    options = options_of(drawn)
    found = allocate(options, budget)
    fitting = [
        sum(one.loss for one in ones)
        for ones in itertools.product(*options.values())
        if sum(one.nbytes for one in ones) <= budget
    ]
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert list(found) == list(options)
    assert sum(one.nbytes for one in found.values()) <= budget
    assert sum(one.loss for one in found.values()) <= min(fitting) + 1e-9


def test_what_rounding_up_leaves_over_is_spent() -> None:
    """A budget far larger than its steps: 1/16384 of it is more than the last tensor needs."""
    large = [Option(Q.Q2_K, 10**8, 1.0), Option(Q.Q4_K, 2 * 10**8, 0.5)]
    small = [Option(Q.Q2_K, 32, 1.0), Option(Q.Q4_K, 64, 0.9)]
    found = allocate({"large": large, "small": small}, 2 * 10**8 + 64)
    assert found is not None
    assert [one.kind for one in found.values()] == [Q.Q4_K, Q.Q4_K]


def test_types_by_columns() -> None:
    assert kinds_for(512)[0] is Q.Q2_K
    assert kinds_for(96)[0] is Q.Q4_0
    assert kinds_for(172) == (Q.F16,)
    assert (probe_for(512), probe_for(96), probe_for(172)) == (Q.Q3_K, Q.Q4_0, None)
    assert nbytes_of(Q.Q4_0, (3, 32)) == 64  # 54 bytes, aligned
