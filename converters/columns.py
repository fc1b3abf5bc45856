"""Columns of a stored matrix as rows, for layers that are stored (in, out): a panel of them is turned while it is read."""

from __future__ import annotations

import threading

import numpy as np

from edgekit.converters.dtypes import FLOATS, Bytes, widen
from edgekit.safetensors_file import Extent, SafetensorsFile
from edgekit.tensors import Float32

PANEL_BYTES = 32 << 20
"""Stored bytes that a thread turns at once: any matrix of GPT-2 XL. Of larger ones the columns are read row by row."""
STRIPE, BLOCK = 384, 170
"""Rows and columns turned at once, out of a copy of their own: rows a power of two apart share few lines of a cache."""

_WORDS = {2: np.uint16, 4: np.uint32}


class Columns(threading.local):
    """Reads columns of matrices of 16- or 32-bit floats; each thread keeps the panel that it read from last."""

    def __init__(self) -> None:
        self._key: tuple[str, int] | None = None
        self._panel: Bytes = np.empty(0, np.uint8)
        self._stripe: Bytes = np.empty(0, np.uint8)

    def read(self, name: str, file: SafetensorsFile, extent: Extent, columns: range, out: Float32) -> None:
        """Fill ``out``, ``(columns, rows)``: the elements are turned as they are stored, then widened."""
        (rows, width), dtype = extent.info.shape, extent.info.dtype
        step, row_bytes = panel_columns(extent), rows * FLOATS[dtype]
        for first in range(columns.start // step * step, columns.stop, step):
            if self._key != (name, first):
                self._key = None
                self._turn(file, extent, range(first, min(first + step, width)))
                self._key = name, first
            start, stop = max(first, columns.start), min(first + step, columns.stop)
            raw = self._panel[(start - first) * row_bytes : (stop - first) * row_bytes]
            flat = out[start - columns.start : stop - columns.start].reshape(-1)
            if dtype == "F32":
                flat[...] = raw.view(np.float32)
            else:
                widen(raw, dtype, flat)

    def _turn(self, file: SafetensorsFile, extent: Extent, columns: range) -> None:
        """Fill the panel with ``(columns, rows)`` of a matrix, read in stripes of its rows."""
        (rows, width), item = extent.info.shape, FLOATS[extent.info.dtype]
        words, count = _WORDS[item], len(columns)
        self._panel = _grown(self._panel, count * rows * item)
        self._stripe = _grown(self._stripe, count * min(STRIPE, rows) * item)
        panel = self._panel[: count * rows * item].view(words).reshape(count, rows)
        for first in range(0, rows, STRIPE):
            height = min(STRIPE, rows - first)
            stripe = self._stripe[: count * height * item].reshape(height, count * item)
            place = extent.offset + (first * width + columns.start) * item
            # Rows that are read whole lie side by side in the file too.
            for i, run in enumerate([stripe.reshape(-1)] if count == width else stripe):
                file.read_into(place + i * width * item, run.data)
            part, into = stripe.view(words), panel.T[first : first + height]
            for column in range(0, count, BLOCK):
                block = slice(column, column + BLOCK)
                into[:, block] = np.ascontiguousarray(part[:, block])


def panel_columns(extent: Extent) -> int:
    """Columns of a matrix that are turned at once."""
    panels = -(-extent.nbytes // PANEL_BYTES)
    return -(-extent.info.shape[1] // max(1, panels))


def _grown(buffer: Bytes, nbytes: int) -> Bytes:
    """A buffer of at least so many bytes: fresh pages would cost as much as turning what fills them.

    So it is made as large as it may become, of which only what is used takes memory.
    """
    return buffer if buffer.nbytes >= nbytes else np.empty(max(nbytes, PANEL_BYTES), np.uint8)
