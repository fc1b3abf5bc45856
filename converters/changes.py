"""What a merge does to runs of rows, one class per kind of change; factors are read when a part is loaded.

LoRA adds scale·B·A (https://arxiv.org/abs/2106.09685), DoRA then gives every output its learned length again
(https://arxiv.org/abs/2402.09353).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.adapter import Adapter
from edgekit.converters.adapter_parts import Pair
from edgekit.errors import AdapterError
from edgekit.tensors import Float32, TensorInfo

Read = Callable[[int, int], Float32]
"""Rows of a tensor before any change."""

PASS_BYTES = 8 << 20
"""What a pass over a whole tensor holds of it at once."""


class Change(Protocol):
    """A loaded change; ``apply`` is safe to call from several threads."""

    def apply(self, out: Float32, start: int, stop: int) -> None:
        """Change ``out``, which holds the rows from ``start`` to ``stop``, in place."""
        ...


class Part(Protocol):
    """A planned change: hashable, equal to another where it does the same, and cheap until loaded."""

    @property
    def adapter(self) -> Adapter: ...

    def load(self, read: Read, info: TensorInfo) -> Change:
        """Read what the change needs; ``read`` gives the rows of the tensor before any change."""
        ...


@dataclass(frozen=True, eq=False)
class LowRank:
    """Adds ``left @ right``, scale included."""

    left: Float32
    right: Float32

    def apply(self, out: Float32, start: int, stop: int) -> None:
        out += self.left[start:stop] @ self.right


def joined(changes: Sequence[LowRank]) -> LowRank:
    """One change that does what several do: their ranks side by side."""
    if len(changes) == 1:
        return changes[0]
    return LowRank(np.hstack([c.left for c in changes]), np.vstack([c.right for c in changes]))


@dataclass(frozen=True, eq=False)
class DoraRows:
    """LoRA, then each row is given its magnitude: rows are outputs, so each needs only itself."""

    product: LowRank
    magnitude: Float32
    adapter: Adapter

    def apply(self, out: Float32, start: int, stop: int) -> None:
        self.product.apply(out, start, stop)
        norms = np.sqrt(np.einsum("ij,ij->i", out, out, dtype=np.float64))
        out *= lengthened(self.magnitude[start:stop], norms, self.adapter)[:, None]


class DoraColumns:
    """LoRA, then each column is given its magnitude; a first pass over all rows, in pieces, measures them."""

    def __init__(
        self, product: LowRank, magnitude: Float32, adapter: Adapter, read: Read, info: TensorInfo
    ) -> None:
        self._product, self._magnitude, self._adapter = product, magnitude, adapter
        self._read, self._info = read, info
        self._factors: Float32 | None = None
        self._lock = threading.Lock()

    def apply(self, out: Float32, start: int, stop: int) -> None:
        self._product.apply(out, start, stop)
        with self._lock:
            if self._factors is None:
                self._factors = lengthened(self._magnitude, self._norms(), self._adapter)
        out *= self._factors

    def _norms(self) -> NDArray[np.float64]:
        rows, columns = self._info.rows, self._info.shape[-1]
        step = max(1, PASS_BYTES // (4 * columns))
        squares = np.zeros(columns, np.float64)
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            block = self._read(start, stop)
            self._product.apply(block, start, stop)
            squares += np.einsum("ij,ij->j", block, block, dtype=np.float64)
        return np.sqrt(squares)


def lengthened(magnitude: Float32, norms: NDArray[np.float64], adapter: Adapter) -> Float32:
    """What outputs of these lengths are multiplied by; ``AdapterError`` where a length is zero."""
    if not norms.all() or not np.isfinite(norms).all():
        raise AdapterError(
            "DoRA divides by the length of an output's weights, and it is not a positive number",
            path=adapter.folder,
        )
    return np.asarray(magnitude / norms, np.float32)


@dataclass(frozen=True, eq=False)
class Added:
    """Adds a vector to a bias."""

    values: Float32

    def apply(self, out: Float32, start: int, stop: int) -> None:
        out += self.values[start:stop]


@dataclass(frozen=True, eq=False)
class Rows:
    """Replaces single rows: trained tokens."""

    places: NDArray[np.int64]
    values: Float32

    def apply(self, out: Float32, start: int, stop: int) -> None:
        for i in np.flatnonzero((self.places >= start) & (self.places < stop)):
            out[self.places[i] - start] = self.values[i]


@dataclass(frozen=True, eq=False)
class Experts:
    """Adds each expert's own product to its part of a stack whose leading axes are flattened."""

    part: ExpertProduct
    b: Float32
    rows: int

    def apply(self, out: Float32, start: int, stop: int) -> None:
        for expert in range(start // self.rows, -(-stop // self.rows)):
            first = expert * self.rows
            low, high = max(start, first), min(stop, first + self.rows)
            a, b = self.part.a_of(expert), self.b[expert]
            left, right = (a.T, b.T) if self.part.transposed else (b, a)
            out[low - start : high - start] += left[low - first : high - first] @ right


@dataclass(frozen=True)
class Product:
    """A pair's whole change to the matrix of one module."""

    adapter: Adapter
    pair: Pair
    weight: float
    transposed: bool

    def turned(self) -> Product:
        """The change to the matrix whose rows are this one's columns."""
        return replace(self, transposed=not self.transposed)

    def load(self, read: Read, info: TensorInfo) -> Change:
        a, b = self.adapter.factor(self.pair.a), self.adapter.factor(self.pair.b)
        left, right = (a.T, b.T) if self.transposed else (b, a)
        scale = np.float32(self.pair.scale * self.weight)
        product = LowRank(np.ascontiguousarray(left), np.ascontiguousarray(right * scale))
        if self.pair.magnitude is None:
            return product
        magnitude = self.adapter.read(self.pair.magnitude)
        if self.transposed:
            return DoraColumns(product, magnitude, self.adapter, read, info)
        return DoraRows(product, magnitude, self.adapter)


@dataclass(frozen=True)
class BiasSum:
    """A pair's change to the bias of its module."""

    adapter: Adapter
    name: str
    scale: float

    def load(self, read: Read, info: TensorInfo) -> Change:
        return Added(self.adapter.read(self.name) * np.float32(self.scale))


@dataclass(frozen=True)
class ExpertProduct:
    """A pair's change to a stack of experts, or to the rows from ``first`` of one ``expert`` that is stored alone."""

    adapter: Adapter
    pair: Pair
    weight: float
    experts: int
    transposed: bool
    expert: int | None = None
    first: int = 0

    def a_of(self, expert: int) -> Float32:
        """One expert's ``A``, scale included; only its own rows are read."""
        rank = self.pair.rank
        a = self.adapter.read(self.pair.a, expert * rank, (expert + 1) * rank)
        return a * np.float32(self.pair.scale * self.weight)

    def load(self, read: Read, info: TensorInfo) -> Change:
        b = self.adapter.experts(self.pair.b, self.experts)
        if self.expert is None:
            return Experts(self, b, info.shape[-2])
        return LowRank(b[self.expert][self.first : self.first + info.rows], self.a_of(self.expert))


@dataclass(frozen=True)
class TokenValues:
    """Trained rows of an embedding or head."""

    adapter: Adapter
    name: str
    indices: tuple[int, ...]

    def load(self, read: Read, info: TensorInfo) -> Change:
        return Rows(np.asarray(self.indices, np.int64), self.adapter.read(self.name))
