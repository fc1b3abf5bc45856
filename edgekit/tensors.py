"""The seam between what is opened, merged and converted: tensors by name, read a few rows at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

ALL: Final = slice(None)
"""Every row of a tensor."""


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of a tensor: its stored dtype (safetensors' name, e.g. ``BF16``) and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows as ``read`` counts them: all axes but the last, flattened; a vector's rows are its elements."""
        return prod(self.shape[:-1]) if len(self.shape) > 1 else self.size

    def part(self, rows: int) -> tuple[int, ...]:
        """The shape of so many rows."""
        return (rows, self.shape[-1]) if len(self.shape) > 1 else (rows,) if self.shape else ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


class TensorSource(Protocol):
    """A model's tensors, known from headers and read lazily; safe to read from several threads."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's config.json."""
        ...

    def names(self) -> Sequence[str]:
        """Names of all tensors, in a fixed order."""
        ...

    def info(self, name: str) -> TensorInfo:
        """Dtype and shape of one tensor; nothing is read."""
        ...

    def read(self, name: str, rows: slice = ALL, out: Float32 | None = None) -> Float32:
        """Rows of one tensor in float32, shape ``(n_rows, columns)``, or ``(n_rows,)`` of a vector.

        Of a stack of matrices the leading axes are flattened. ``out``, C-contiguous and of that shape, is filled
        and returned where given.
        """
        ...

    def read_columns(self, name: str, columns: slice = ALL, out: Float32 | None = None) -> Float32:
        """Columns of one matrix as rows, in float32, shape ``(n_columns, rows)``; ``out`` as in ``read``."""
        ...

    def prefetch(self, name: str, rows: slice = ALL) -> None:
        """Tell the system that these rows are read soon; may do nothing."""
        ...


def span(rows: slice, length: int) -> tuple[int, int]:
    """Start and stop of a plain slice (step 1) over ``length`` rows."""
    start, stop, step = rows.indices(length)
    if step != 1:
        raise ValueError("rows are read in order: the slice's step must be 1")
    return start, max(start, stop)


def turned(source: TensorSource, name: str, columns: slice = ALL, out: Float32 | None = None) -> Float32:
    """What ``read_columns`` gives, of a source that reads rows only: the whole matrix is read for it."""
    found = source.read(name)[:, columns].T
    if out is None:
        return np.ascontiguousarray(found)
    out[...] = found
    return out
