"""How many bytes GGUF's keys and tensor infos take, without writing them: a vocabulary of 128k takes half a second.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final

from gguf import GGUF_DEFAULT_ALIGNMENT, GGUFValueType

from edgekit.converters.gguf.family import Entry

START: Final = 4 + 4 + 8 + 8
"""Magic, version, numbers of tensors and of keys."""
_V = GGUFValueType
_WIDTHS: Final = {
    kind: struct.calcsize(f"<{code}")
    for kind, code in {
        _V.UINT8: "B", _V.INT8: "b", _V.UINT16: "H", _V.INT16: "h", _V.UINT32: "I", _V.INT32: "i",
        _V.FLOAT32: "f", _V.BOOL: "?", _V.UINT64: "Q", _V.INT64: "q", _V.FLOAT64: "d",
    }.items()
}  # fmt: skip


def of_entry(entry: Entry) -> int:
    """A key, its type and its value."""
    return _text(entry.key) + 4 + _of_value(entry.value, entry.kind)


def of_info(name: str, dimensions: int) -> int:
    """A tensor's info: name, number of dimensions and each of them, type, offset."""
    return _text(name) + 4 + 8 * dimensions + 4 + 8


def padded(nbytes: int) -> int:
    """Up to GGUF's alignment."""
    return -(-nbytes // int(GGUF_DEFAULT_ALIGNMENT)) * int(GGUF_DEFAULT_ALIGNMENT)


def _text(text: str | bytes) -> int:
    return 8 + len(text.encode() if isinstance(text, str) else text)


def _of_value(value: Any, kind: GGUFValueType) -> int:
    if kind in _WIDTHS:
        return _WIDTHS[kind]
    if kind is _V.STRING:
        return _text(value)
    return 4 + 8 + (len(value) if isinstance(value, bytes) else _of_items(value))


def _of_items(values: Any) -> int:
    """An array's elements, which the writer stores as the first one's type."""
    kind = _V.get_type(values[0])
    if kind is _V.STRING:
        return 8 * len(values) + _bytes_of(values)
    return _WIDTHS[kind] * len(values)


def _bytes_of(texts: Iterable[str | bytes]) -> int:
    return sum(len(one.encode() if isinstance(one, str) else one) for one in texts)
