"""Rounding with error feedback: what a column loses is made up for in the columns behind it.

GPTQ (Frantar and others, arXiv 2210.17323) with ggml's blocks: ggml chooses a block's scales, for the weights as the
feedback has left them; then the codes are rounded column by column. Stock llama.cpp reads the bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
from gguf import GGMLQuantizationType as Q
from numpy.typing import NDArray

from edgekit.converters.gguf.blocks import BLOCKS, Blocks
from edgekit.converters.gguf.ggml import Ggml
from edgekit.correlated import Correlations
from edgekit.tensors import Float32

PANEL: Final = 256
"""Columns whose errors reach the columns behind them in one product of matrices."""
STEP: Final = 32
"""Columns that hear of each other's errors one by one; a panel's other columns hear of them together."""
DAMPING: Final = 0.01
"""Share of the mean square that is added to all squares: correlations of a sample aren't exact."""
_HELD: Final = 2
"""Factors that are kept: a pass goes through tensors in order, and its threads work at two of them at most."""


@dataclass(frozen=True)
class Factor:
    """Of an input's correlations H: the upper Cholesky factor ``(columns, columns)`` of H's inverse, and H's diagonal."""

    upper: Float32
    squares: Float32


def factor(correlations: Float32) -> Factor:
    """Factorize damped correlations; columns that were always zero take part in nothing."""
    matrix = correlations.astype(np.float64)
    squares = np.diagonal(matrix).copy()
    mean = float(squares.mean()) or 1.0
    matrix[np.diag_indices_from(matrix)] += DAMPING * mean
    inverse = np.linalg.inv(matrix)
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return Factor(np.ascontiguousarray(upper, np.float32), squares.astype(np.float32))


class Factors:
    """Factors by weight, made where they are first wanted and kept beside the correlations; safe from several threads.

    One of 8,192 columns takes most of a minute, and is wanted by every file that is tried.
    """

    def __init__(self, correlations: Correlations) -> None:
        self.correlations = correlations
        self._lock = threading.Lock()
        self._made: OrderedDict[int, Factor] = OrderedDict()

    def of(self, name: str) -> Factor:
        """The factor of a weight's input."""
        number = self.correlations.input_of(name)
        with self._lock:
            if number not in self._made:
                self._made[number] = self._kept(number)
                while len(self._made) > _HELD:
                    self._made.popitem(last=False)
            self._made.move_to_end(number)
            return self._made[number]

    def _kept(self, number: int) -> Factor:
        columns = self.correlations.index.columns[number]
        path = self.correlations.folder / f"factor-{number}.bin"
        if path.exists():
            table = np.fromfile(path, np.float32).reshape(columns + 1, columns)
            return Factor(table[:columns], table[columns])
        made = factor(self.correlations.of(number))
        with path.open("wb") as file:
            made.upper.tofile(file)
            made.squares.tofile(file)
        return made

    def fits(self, name: str, shape: tuple[int, ...], kind: Q) -> bool:
        """Whether a tensor can be rounded so: a matrix with correlations, in a type whose codes can be changed."""
        return kind in BLOCKS and len(shape) == 2 and self.correlations.has(name, shape[-1])


@dataclass(frozen=True)
class Feedback:
    """How a tensor is rounded: by which factors, and how much of an error is passed on."""

    factors: Factors
    strength: float

    def quantize(self, ggml: Ggml, kind: Q, name: str, rows: Float32) -> NDArray[np.uint8]:
        """Rows ``(n, columns)`` of a tensor in type ``kind``, as flat bytes."""
        return quantize(ggml, BLOCKS[kind], rows, self.factors.of(name), self.strength)


def quantize(
    ggml: Ggml, blocks: Blocks, rows: Float32, by: Factor, strength: float = 1.0
) -> NDArray[np.uint8]:
    """Round rows ``(n, columns)``; ``strength`` 1 passes all of an error on, 0 none."""
    count, columns = rows.shape
    left = np.ascontiguousarray(rows.T)
    out = np.empty((count, columns // blocks.columns, blocks.nbytes), np.uint8)
    for start in range(0, columns, PANEL):
        stop = min(start + PANEL, columns)
        lost = np.empty((stop - start, count), np.float32)
        for at in range(start, stop, blocks.columns):
            raw = _block(ggml, blocks, left, at, stop, by, strength, lost[at - start :])
            out[:, at // blocks.columns] = raw
        if stop < columns:
            left[stop:] -= by.upper[start:stop, stop:].T @ lost
    return out.reshape(-1)


def _block(
    ggml: Ggml,
    blocks: Blocks,
    left: Float32,
    at: int,
    stop: int,
    by: Factor,
    strength: float,
    lost: Float32,
) -> NDArray[np.uint8]:
    """One block of every row: its bytes ``(n, bytes)``; ``left`` hears of errors up to column ``stop``."""
    end, count = at + blocks.columns, left.shape[1]
    raw = np.empty((count, blocks.nbytes), np.uint8)
    ggml.quantize(blocks.kind, np.ascontiguousarray(left[at:end].T), raw, _weights(by.squares[at:end]))
    scale, offset = (np.ascontiguousarray(part.T) for part in blocks.grid(raw, ggml))
    codes = np.empty((blocks.columns, count), np.uint8)
    rounder = _Rounder(blocks, count)
    for first in range(at, end, STEP):
        last = min(first + STEP, end)
        for column in range(first, last):
            here = column - at
            codes[here], value = rounder.round(left[column], scale[here], offset[here])
            error = lost[here]
            np.subtract(left[column], value, out=error)
            error *= np.float32(strength / by.upper[column, column])
            left[column + 1 : last] -= np.multiply.outer(by.upper[column, column + 1 : last], error)
        if last < stop:
            left[last:stop] -= by.upper[first:last, last:stop].T @ lost[first - at : last - at]
    blocks.put(raw, np.ascontiguousarray(codes.T))
    return raw


def _weights(squares: Float32) -> Float32:
    """Importances for ggml, which divides by their sum: none may be zero everywhere."""
    return np.maximum(squares, np.float32(1e-30))


class _Rounder:
    """Rounds one column of all rows to codes, into the same buffers every time."""

    def __init__(self, blocks: Blocks, count: int) -> None:
        self.levels = np.array(blocks.levels, np.float32)
        self.even, self.count = blocks.even, len(blocks.levels)
        self.middles = (self.levels[1:] + self.levels[:-1]) / 2
        self._place = np.empty(count, np.float32)

    def round(self, wanted: Float32, scale: Float32, offset: Float32) -> tuple[NDArray[np.intp], Float32]:
        """The nearest codes ``(n,)`` and their values."""
        place = self._place
        np.subtract(wanted, offset, out=place)
        np.divide(place, np.where(scale == 0, np.float32(np.inf), scale), out=place)
        if self.even:
            np.rint(place, out=place)
            np.clip(place, self.levels[0], self.levels[-1], out=place)
            codes = (place - self.levels[0]).astype(np.intp)
        else:
            codes = np.searchsorted(self.middles, place)
            np.take(self.levels, codes, out=place)
        return codes, offset + scale * place
