"""The account of shared cells, against sets of owners kept cell by cell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtimes.cells import Cells

SEQS = 4
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, SEQS - 1), st.integers(0, 5)),
        st.tuples(st.just("truncate"), st.integers(0, SEQS - 1), st.integers(0, 12)),
        st.tuples(st.just("copy"), st.integers(0, SEQS - 1), st.integers(0, SEQS - 1), st.integers(0, 12)),
    ),
    max_size=40,
)


@given(STEPS)
def test_as_counted_one_by_one(steps: list[tuple[str, int, int]]) -> None:
    cells = Cells(SEQS)
    held: list[list[int]] = [[] for _ in range(SEQS)]
    fresh = iter(range(10_000))
    for what, seq, *rest in steps:
        if what == "append":
            cells.append(seq, rest[0])
            held[seq] += [next(fresh) for _ in range(rest[0])]
        elif what == "truncate":
            length = min(rest[0], len(held[seq]))
            cells.truncate(seq, length)
            del held[seq][length:]
        else:
            dst, length = rest[0], min(rest[1], len(held[seq]))
            cells.copy(seq, dst, length)
            held[dst] = held[seq][:length]
        assert cells.used == len({cell for sequence in held for cell in sequence})
