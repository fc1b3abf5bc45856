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
        """Length of the first axis; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

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
        """Rows of one tensor in float32, shape ``(n_rows, *shape[1:])``.

        ``out``, C-contiguous and of that shape, is filled and returned where given.
        """
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
