"""Read and check an ONNX graph's tensors before any library does: bounded, and every external extent inside its file.

Format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, walked as plain protobuf wire format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from edgekit.errors import BundleError
from edgekit.files import require_file

GRAPH_LIMIT: Final = 256 << 20
"""Bytes of the graph itself at most: weights lie beside it, and a graph of 100 layers has less than a megabyte."""
TENSOR_LIMIT: Final = 65_536
DEPTH: Final = 16
"""Of graphs within nodes within graphs."""

BITS: Final = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8,
}  # fmt: skip
"""Bits of an element by TensorProto.DataType; strings have none."""

_TYPES: Final = {1: "F32", 2: "U8", 3: "I8", 6: "I32", 7: "I64", 10: "F16", 16: "BF16"}
_PACKED: Final = re.compile(r"_Q([48])(G\d+)?$")
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _FUNCTION, _SPARSE, _TENSOR = range(7)
_WITHIN: Final[dict[int, dict[int, int]]] = {
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
}
"""Fields by number that hold messages in which tensors can be."""
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class OnnxTensor:
    """A tensor as the graph has it; ``place`` is the file beside the graph that holds it, empty for the graph itself."""

    name: str
    kind: int
    shape: tuple[int, ...]
    nbytes: int
    place: str = ""
    offset: int = 0

    @property
    def type_name(self) -> str:
        """Of an element; INT4 or INT8 where the builder packed it for MatMulNBits, as the end of its name says."""
        packed = _PACKED.search(self.name)
        return f"INT{packed[1]}" if packed else _TYPES.get(self.kind, f"type {self.kind}")


class _Unsound(Exception):
    """What is wrong, in words."""


def read_tensors(path: Path) -> list[OnnxTensor]:
    """All stored tensors of a .onnx file; ``BundleError`` for a broken graph, or data that isn't where it says.

    Nothing of the weights is read. Data may lie only in plain files beside the graph.
    """
    size = require_file(path, "ONNX graph").stat().st_size
    if size > GRAPH_LIMIT:
        raise BundleError(
            "the graph is too large", path=path, found=f"{size:,} bytes",
            expected=f"at most {GRAPH_LIMIT:,}: weights go into a file beside it",
        )  # fmt: skip
    try:
        found = []
        for tensor in _walk(memoryview(path.read_bytes()), _MODEL, 0):
            found.append(tensor)
            if len(found) > TENSOR_LIMIT:
                raise _Unsound(f"more than {TENSOR_LIMIT:,} tensors")
        if not found:
            raise _Unsound("no tensor in it")
        _check_places(path.parent, found)
    except (_Unsound, IndexError, UnicodeDecodeError) as error:
        what = str(error) if isinstance(error, _Unsound) else "it is cut off or no protobuf"
        raise BundleError(
            "not a sound ONNX graph", path=path, found=what, next_step="build it again"
        ) from error
    return found


def places(tensors: list[OnnxTensor]) -> list[str]:
    """The files beside the graph that hold its weights."""
    return sorted({tensor.place for tensor in tensors} - {""})


def _check_places(folder: Path, tensors: list[OnnxTensor]) -> None:
    sizes = {}
    for place in places(tensors):
        if not _NAME.fullmatch(place):
            raise _Unsound(f"weights in {place[:100]!r}, which is no plain file name")
        if not (folder / place).is_file():
            raise _Unsound(f"weights in {place}, which is not there")
        sizes[place] = (folder / place).stat().st_size
    for tensor in tensors:
        if tensor.place and tensor.offset + tensor.nbytes > sizes[tensor.place]:
            raise _Unsound(f"{tensor.name} ends behind the {sizes[tensor.place]:,} bytes of {tensor.place}")


def _walk(data: memoryview, kind: int, depth: int) -> Iterator[OnnxTensor]:
    if depth > DEPTH * 3:  # a graph in an attribute of a node is three messages deep
        raise _Unsound("graphs nested too deep")
    if kind == _TENSOR:
        yield _tensor(data)
        return
    within = _WITHIN[kind]
    for number, value in _fields(data):
        if number in within and isinstance(value, memoryview):
            yield from _walk(value, within[number], depth + 1)


def _tensor(data: memoryview) -> OnnxTensor:
    shape: list[int] = []
    kind, name, raw, external, elsewhere = 0, "", None, {}, False
    for number, value in _fields(data):
        if number == 1:
            shape += _numbers(value) if isinstance(value, memoryview) else [value]
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8 and isinstance(value, memoryview):
            name = bytes(value).decode()
        elif number == 9 and isinstance(value, memoryview):
            raw = len(value)
        elif number == 13 and isinstance(value, memoryview):
            pair = {at: bytes(text).decode() for at, text in _fields(value) if isinstance(text, memoryview)}
            external[pair.get(1, "")] = pair.get(2, "")
        elif number == 14:
            elsewhere = value == 1
    if kind == 8 and not elsewhere:  # strings, as they are
        return OnnxTensor(name, kind, tuple(shape), len(data))
    if kind not in BITS or any(not 0 <= one < 1 << 40 for one in shape):
        raise _Unsound(f"{name or 'a tensor'} has an impossible type or shape")
    count = prod(shape)
    nbytes = (count * BITS[kind] + 7) // 8
    if elsewhere:
        return _external(OnnxTensor(name, kind, tuple(shape), nbytes), external)
    # Numbers that aren't raw take a byte each, but for those of 4 bits.
    if (raw is not None and raw != nbytes) or (raw is None and count > 2 * len(data)):
        raise _Unsound(f"{name or 'a tensor'} says that it has {count:,} elements, and does not")
    return OnnxTensor(name, kind, tuple(shape), nbytes)


def _external(tensor: OnnxTensor, says: dict[str, str]) -> OnnxTensor:
    place, offset, length = says.get("location", ""), says.get("offset", "0"), says.get("length", "")
    if not (offset.isdecimal() and len(offset) < 20 and (length or str(tensor.nbytes)) == str(tensor.nbytes)):
        raise _Unsound(f"{tensor.name} has {tensor.nbytes:,} bytes, and its place says {length[:20]}")
    if not place:
        raise _Unsound(f"{tensor.name} is elsewhere, and nothing says where")
    return OnnxTensor(tensor.name, tensor.kind, tensor.shape, tensor.nbytes, place, int(offset))


def _numbers(data: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Each field's number with its integer, or the bytes of its text or message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif kind in (1, 2, 5):
            length, at = _varint(data, at) if kind == 2 else ((8 if kind == 1 else 4), at)
            if at + length > len(data):
                raise _Unsound("it is cut off")
            if kind == 2:
                yield key >> 3, data[at : at + length]
            at += length
        else:
            raise _Unsound("it is no protobuf")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise _Unsound("a number without end")
