"""The codes inside ggml's quantized blocks: read out and put back, the scales beside them left as they are.

Layouts are those of ggml-common.h. Scales aren't parsed: ggml itself widens a block whose codes are all the same, which
says what a code is worth in each column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Q
from numpy.typing import NDArray

from edgekit.converters.gguf.ggml import Ggml
from edgekit.tensors import Float32

Bytes = NDArray[np.uint8]
Codes = NDArray[np.uint8]

_IQ4: Final = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class Plane:
    """Some bits of every code: ``width`` of them, which belong at bit ``to`` of the code.

    At byte ``at`` of the block begin runs of ``run`` bytes; each holds ``8 / width`` times as many columns: first those
    in the lowest bits of all its bytes, then those in the next ones.
    """

    at: int
    run: int
    width: int
    to: int = 0

    def place(self, columns: int) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
        """The byte and the shift of each column's bits, ``(columns,)`` each."""
        folds = 8 // self.width
        column = np.arange(columns)
        group, within = np.divmod(column, self.run * folds)
        fold, byte = np.divmod(within, self.run)
        return (self.at + group * self.run + byte), (fold * self.width).astype(np.uint8)


@dataclass(frozen=True)
class Blocks:
    """A type whose codes can be changed: where their bits are, and what they stand for.

    A code's value is ``offset + scale * levels[code]``, with a scale and an offset for each column of each block.
    """

    kind: Q
    planes: Sequence[Plane]
    levels: tuple[int, ...]

    @property
    def columns(self) -> int:
        """Of a block."""
        return int(GGML_QUANT_SIZES[self.kind][0])

    @property
    def nbytes(self) -> int:
        """Of a block."""
        return int(GGML_QUANT_SIZES[self.kind][1])

    @property
    def even(self) -> bool:
        """Whether the levels are whole numbers in a row."""
        return self.levels == tuple(range(self.levels[0], self.levels[0] + len(self.levels)))

    @cached_property
    def _anchors(self) -> tuple[int, int]:
        """Two codes whose values give the scale: a step apart, the lower nearest to zero, where rounding is least."""
        lower = min(range(len(self.levels) - 1), key=lambda code: abs(self.levels[code]))
        return lower, lower + 1

    def codes(self, raw: Bytes) -> Codes:
        """The codes ``(blocks, columns)`` of blocks ``(blocks, bytes)``."""
        found = np.zeros((len(raw), self.columns), np.uint8)
        for plane in self.planes:
            byte, shift = plane.place(self.columns)
            found |= ((raw[:, byte] >> shift) & np.uint8((1 << plane.width) - 1)) << np.uint8(plane.to)
        return found

    def put(self, raw: Bytes, codes: Codes) -> None:
        """Put codes in place of those that are there."""
        for plane in self.planes:
            byte, shift = plane.place(self.columns)
            mask = np.uint8((1 << plane.width) - 1)
            bits = (codes >> np.uint8(plane.to)) & mask
            for one in np.unique(shift):
                there = shift == one  # columns of one shift have a byte each
                kept = raw[:, byte[there]] & ~np.uint8(int(mask) << int(one))
                raw[:, byte[there]] = kept | (bits[:, there] << one)

    def grid(self, raw: Bytes, ggml: Ggml) -> tuple[Float32, Float32]:
        """Scale and offset of every column, ``(blocks, columns)`` each."""
        low, high = (self._constant(raw, code, ggml) for code in self._anchors)
        least, most = (self.levels[code] for code in self._anchors)
        scale = (high - low) / np.float32(most - least)
        return scale, low - scale * np.float32(least)

    def _constant(self, raw: Bytes, code: int, ggml: Ggml) -> Float32:
        same = raw.copy()
        self.put(same, np.full((len(raw), self.columns), code, np.uint8))
        return self.values(same, ggml)

    def values(self, raw: Bytes, ggml: Ggml) -> Float32:
        """What blocks stand for, ``(blocks, columns)``, as llama.cpp reads them."""
        found = np.empty((len(raw), self.columns), np.float32)
        ggml.widen(self.kind, raw, found)
        return found


def _range(low: int, count: int) -> tuple[int, ...]:
    return tuple(range(low, low + count))


_HALF: Final = 2
"""Bytes of a float16."""
BLOCKS: Final[Mapping[Q, Blocks]] = {
    one.kind: one
    for one in (
        Blocks(Q.Q4_0, (Plane(_HALF, 16, 4),), _range(-8, 16)),
        Blocks(Q.Q4_1, (Plane(2 * _HALF, 16, 4),), _range(0, 16)),
        Blocks(Q.Q5_0, (Plane(_HALF + 4, 16, 4), Plane(_HALF, 1, 1, 4)), _range(-16, 32)),
        Blocks(Q.Q5_1, (Plane(2 * _HALF + 4, 16, 4), Plane(2 * _HALF, 1, 1, 4)), _range(0, 32)),
        Blocks(Q.IQ4_NL, (Plane(_HALF, 16, 4),), _IQ4),
        Blocks(Q.IQ4_XS, (Plane(_HALF + 2 + 4, 16, 4),), _IQ4),
        Blocks(Q.Q2_K, (Plane(16, 32, 2),), _range(0, 4)),
        Blocks(Q.Q3_K, (Plane(32, 32, 2), Plane(0, 32, 1, 2)), _range(-4, 8)),
        Blocks(Q.Q4_K, (Plane(2 * _HALF + 12, 32, 4),), _range(0, 16)),
        Blocks(Q.Q5_K, (Plane(2 * _HALF + 12 + 32, 32, 4), Plane(2 * _HALF + 12, 32, 1, 4)), _range(0, 32)),
        Blocks(Q.Q6_K, (Plane(0, 64, 4), Plane(128, 32, 2, 4)), _range(-32, 64)),
    )
}
"""The types whose codes can be changed one by one; those that search a grid of whole vectors can't."""
