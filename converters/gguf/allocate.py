"""Which type each tensor gets under a budget of bytes: the least loss that fits, by dynamic programming."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from gguf import GGMLQuantizationType as Q

from edgekit.converters.gguf.measures import padded
from edgekit.converters.gguf.presets import row_bytes

BY_256: Final = (Q.Q2_K, Q.Q3_K, Q.IQ4_XS, Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.Q8_0, Q.F16)
BY_32: Final = (Q.Q4_0, Q.IQ4_NL, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.F16)
"""Types to choose from, by what a tensor's columns divide by; those that search a grid gain nothing from feedback."""
_STEPS: Final = 1 << 14
"""Steps that the budget is cut into; what is left over by rounding up is spent after."""


@dataclass(frozen=True)
class Option:
    """A type that a tensor may get: its bytes in a file, and the loss that it adds, in nats of KL divergence."""

    kind: Q
    nbytes: int
    loss: float


def kinds_for(columns: int) -> tuple[Q, ...]:
    """The types that rows of so many columns can have, smallest first."""
    return BY_256 if columns % 256 == 0 else BY_32 if columns % 32 == 0 else (Q.F16,)


def probe_for(columns: int) -> Q | None:
    """The type that a tensor's sensitivity is measured in: low enough to be seen, not so low that all is lost."""
    return Q.Q3_K if columns % 256 == 0 else Q.Q4_0 if columns % 32 == 0 else None


def nbytes_of(kind: Q, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor takes in a file, with what aligns the next one."""
    return padded(row_bytes(kind, shape[-1]) * (int(np.prod(shape)) // shape[-1]))


def allocate(options: Mapping[str, Sequence[Option]], budget: int) -> dict[str, Option] | None:
    """An option for each tensor, ``budget`` bytes in all at most, with the least sum of losses; None where none fits.

    The same for the same figures. The sum is the least up to 1/16384 of the budget, and no byte is left over that
    would make a tensor better.
    """
    useful = {name: _useful(ones) for name, ones in sorted(options.items())}
    floor = sum(ones[0].nbytes for ones in useful.values())
    if floor > budget:
        return None
    chosen = _solved(useful, budget - floor)
    return _filled(useful, chosen, budget)


def _useful(options: Sequence[Option]) -> list[Option]:
    """By size, without those that lose no less than a smaller one."""
    found: list[Option] = []
    for one in sorted(options, key=lambda option: (option.nbytes, option.loss)):
        if not found or one.loss < found[-1].loss:
            found.append(one)
    return found


def _solved(options: Mapping[str, Sequence[Option]], spare: int) -> dict[str, Option]:
    step = max(1, -(-spare // _STEPS))
    room = spare // step
    best = np.zeros(room + 1)
    picks = []
    for ones in options.values():
        costs = [-(-(one.nbytes - ones[0].nbytes) // step) for one in ones]
        table = np.full((len(ones), room + 1), np.inf)
        for row, (cost, one) in enumerate(zip(costs, ones, strict=True)):
            if cost <= room:
                table[row, cost:] = best[: room + 1 - cost] + one.loss
        pick = table.argmin(0)
        best = table[pick, np.arange(room + 1)]
        picks.append((pick, costs))
    at, chosen = room, {}
    for (name, ones), (pick, costs) in zip(reversed(list(options.items())), reversed(picks), strict=True):
        row = int(pick[at])
        chosen[name] = ones[row]
        at -= costs[row]
    return chosen


def _filled(
    options: Mapping[str, Sequence[Option]], chosen: dict[str, Option], budget: int
) -> dict[str, Option]:
    """Spend what is left on what gains the most by byte."""
    chosen = {name: chosen[name] for name in options}
    while True:
        left = budget - sum(one.nbytes for one in chosen.values())
        better = [
            ((chosen[name].loss - one.loss) / (one.nbytes - chosen[name].nbytes), name, one)
            for name, ones in options.items()
            for one in ones
            if 0 < one.nbytes - chosen[name].nbytes <= left
        ]
        if not better:
            return chosen
        _, name, one = max(better, key=lambda found: (found[0], found[1]))
        chosen[name] = one
