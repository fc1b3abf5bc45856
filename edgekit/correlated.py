"""What weights are multiplied with, column by column: sums of products over a text, in one file with an index.

The Hessian of a layer's squared output error is twice such a matrix (GPTQ, arXiv 2210.17323). Weights that share an
input, such as a layer's gate and up, share a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from edgekit.errors import InputError
from edgekit.tensors import Float32

WIDEST: Final = 16_384
"""Columns of an input at most: its matrix is a gigabyte."""
_INDEX, _DATA = "correlations.json", "correlations.bin"


class Index(msgspec.Struct, frozen=True):
    """Columns of each input and the rows that were summed, in the file's order; and each weight's input."""

    columns: list[int]
    counts: list[int]
    inputs: dict[str, int]


@dataclass(frozen=True)
class Correlations:
    """A folder's matrices, read one at a time."""

    folder: Path
    index: Index

    @classmethod
    def open(cls, folder: Path) -> Correlations:
        """Read the index; ``InputError`` where the file isn't as long as it says."""
        index = msgspec.json.decode((folder / _INDEX).read_bytes(), type=Index)
        expected, found = nbytes(index.columns), (folder / _DATA).stat().st_size
        if found != expected:
            raise InputError(
                "the correlations are cut off",
                path=folder / _DATA,
                found=f"{found:,} bytes",
                expected=f"{expected:,}",
            )
        return cls(folder, index)

    def has(self, name: str, columns: int) -> bool:
        """Whether there is a matrix for a weight of so many columns."""
        number = self.index.inputs.get(name)
        return number is not None and self.index.columns[number] == columns and self.index.counts[number] > 0

    def input_of(self, name: str) -> int:
        """The number of a weight's input; weights of one number share the matrix."""
        return self.index.inputs[name]

    def of(self, number: int) -> Float32:
        """An input's mean products ``(columns, columns)``."""
        columns = self.index.columns[number]
        start = nbytes(self.index.columns[:number])
        with (self.folder / _DATA).open("rb") as file:
            file.seek(start)
            sums = np.fromfile(file, np.float32, columns * columns).reshape(columns, columns)
        sums /= self.index.counts[number]
        return sums


def nbytes(columns: list[int]) -> int:
    """Bytes of the matrices of so many columns."""
    return sum(4 * count * count for count in columns)


class Sums:
    """Matrices that grow in a mapped file, so that they needn't fit into memory; written whole by ``close``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = (folder / _DATA).open("w+b")
        self._maps: list[np.memmap[tuple[int, int], np.dtype[np.float32]]] = []
        self._columns: list[int] = []
        self._counts: list[int] = []
        self._inputs: dict[str, int] = {}

    def begin(self, name: str, columns: int) -> int:
        """A new input of ``columns``, found at the weight of that name."""
        start = nbytes(self._columns)
        self._columns.append(columns)
        self._counts.append(0)
        self._file.truncate(nbytes(self._columns))
        self._maps.append(np.memmap(self._file, np.float32, "r+", start, (columns, columns)))
        self.join(name, len(self._columns) - 1)
        return len(self._columns) - 1

    def join(self, name: str, number: int) -> None:
        """Another weight of an input that is there."""
        self._inputs[name] = number

    def input_of(self, name: str) -> int | None:
        """The number of a weight's input, if it has one yet."""
        return self._inputs.get(name)

    def add(self, number: int, rows: Float32) -> None:
        """Rows ``(n, columns)`` that an input was given."""
        table = self._maps[number]
        np.add(table, rows.T @ rows, out=table)
        self._counts[number] += len(rows)

    def close(self) -> None:
        """Write the index; the file is complete then."""
        for one in self._maps:
            one.flush()
        self._maps.clear()
        self._file.close()
        index = Index(self._columns, self._counts, dict(sorted(self._inputs.items())))
        (self.folder / _INDEX).write_bytes(msgspec.json.encode(index))
