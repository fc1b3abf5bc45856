"""Read and check a GGUF file's header before any library does: bounded, no duplicates, every extent inside.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.files import require_file

HEADER_LIMIT = 64 << 20
"""Bytes of keys and tensor infos at most: a 256k vocabulary with its merges takes about 15 MB."""
TENSOR_LIMIT = 65_536
KEY_LIMIT = 4096
STRING_LIMIT = 4 << 20
SHOWN, NUMBERS = 16, 1024
"""Array elements that are kept, of texts and of numbers (a model has up to 512 layers); the rest is only walked over."""

TOKENS = "tokenizer.ggml.tokens"

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufTensor:
    """A tensor as the header has it: ggml's dimensions (columns first), type name, offset in the file, bytes."""

    name: str
    dimensions: tuple[int, ...]
    kind: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GgufArray:
    """An array's length and first elements."""

    length: int
    first: list[Any]


@dataclass(frozen=True)
class GgufHeader:
    """Keys and tensors of a GGUF file that was found sound; ``spans`` is where each key and its value lie in it."""

    version: int
    keys: dict[str, Any]
    tensors: list[GgufTensor]
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)


def read_header(path: Path) -> GgufHeader:
    """Parse and check; ``InputError`` names the file and what is wrong."""
    require_file(path, "the GGUF file")
    size = path.stat().st_size
    with path.open("rb") as file:
        data = file.read(min(size, HEADER_LIMIT))
    return parse_header(path, data, size)


def parse_header(path: Path, data: bytes, size: int) -> GgufHeader:
    """The same for the first bytes of a file of ``size`` bytes, already read from ``path``."""
    return _Reader(path, data[:HEADER_LIMIT], size).header()


class _Reader:
    def __init__(self, path: Path, data: bytes, size: int) -> None:
        self.path, self.data, self.size, self.position = path, data, size, 0

    def bad(self, what: str, found: object = None, expected: object = None) -> InputError:
        return InputError(
            what, path=self.path, found=found, expected=expected, next_step="fetch or build the file again"
        )

    def take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise self.bad(
                "the GGUF header ends too soon or is too large",
                f"a field of {count:,} bytes at byte {self.position:,} of {len(self.data):,}",
            )
        piece, self.position = self.data[self.position : end], end
        return piece

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        length = self.scalar("Q")
        if length > STRING_LIMIT:
            raise self.bad(
                "a string in the GGUF header is too long", f"{length:,} bytes", f"<= {STRING_LIMIT:,}"
            )
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int, distinct: bool = False) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array(distinct)
        raise self.bad("a key of unknown type", kind, "0 to 12")

    def array(self, distinct: bool) -> GgufArray:
        kind, length = self.scalar("I"), self.scalar("Q")
        if kind in _SCALARS:
            width = struct.calcsize("<" + _SCALARS[kind])
            piece = self.take(length * width)
            shown = min(length, NUMBERS)
            return GgufArray(length, list(struct.unpack(f"<{shown}{_SCALARS[kind]}", piece[: shown * width])))
        if kind != _STRING or length > len(self.data):
            raise self.bad(
                "an array of unknown type or impossible length", f"type {kind}, {length:,} elements"
            )
        begin = self.position
        first = [self.string() for _ in range(min(length, SHOWN))]
        self.position = begin
        pieces = self.strings(length)
        if distinct and len(set(pieces)) != length:
            raise self.bad("two tokens have the same text", expected="a vocabulary of distinct tokens")
        return GgufArray(length, first)

    def strings(self, length: int) -> list[bytes]:
        """The raw strings of an array, walked over without decoding them."""
        unpack, data, position = struct.Struct("<Q").unpack_from, self.data, self.position
        end, pieces = len(data) - 8, []
        for _ in range(length):
            if position > end:
                raise self.bad("the GGUF header ends too soon", f"inside an array of {length:,} strings")
            begin = position + 8
            position = begin + unpack(data, position)[0]
            pieces.append(data[begin:position])
        self.position = position
        self.take(0)
        return pieces

    def header(self) -> GgufHeader:
        if self.take(4) != b"GGUF":
            raise self.bad("not a GGUF file", self.data[:4], "the letters GGUF")
        version, tensors, keys = self.scalar("I"), self.scalar("Q"), self.scalar("Q")
        if version not in {2, 3}:
            raise self.bad("a GGUF version that isn't read", version, "2 or 3")
        if tensors > TENSOR_LIMIT or keys > KEY_LIMIT:
            raise self.bad(
                "too many tensors or keys", f"{tensors:,} and {keys:,}", f"{TENSOR_LIMIT:,}, {KEY_LIMIT:,}"
            )
        values: dict[str, Any] = {}
        spans: dict[str, tuple[int, int]] = {}
        for _ in range(keys):
            begin, key = self.position, self.string()
            if key in values:
                raise self.bad("a key appears twice", key)
            # llama.cpp aborts on a token that is there twice.
            values[key] = self.value(self.scalar("I"), distinct=key == TOKENS)
            spans[key] = (begin, self.position)
        infos = [self.info() for _ in range(tensors)]
        return GgufHeader(version, values, self.place(infos, values.get("general.alignment", 32)), spans)

    def info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, count = self.string(), self.scalar("I")
        if not 1 <= count <= 4:
            raise self.bad(f"tensor {name!r} has an unsound shape", f"{count} dimensions", "1 to 4")
        dimensions = tuple(self.scalar("Q") for _ in range(count))
        return name, dimensions, self.scalar("I"), self.scalar("Q")

    def place(self, infos: list[tuple[str, tuple[int, ...], int, int]], alignment: Any) -> list[GgufTensor]:
        """Turn offsets into places in the file and check that they are inside and apart."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            raise self.bad("an unsound alignment", alignment)
        start = -(-self.position // alignment) * alignment
        known = {int(kind): kind for kind in GGMLQuantizationType}
        tensors = []
        for name, dimensions, code, offset in infos:
            if code not in known:
                raise self.bad(f"tensor {name!r} is of an unknown type", code)
            elements, width = GGML_QUANT_SIZES[known[code]]
            count = prod(dimensions)
            if any(n < 1 or n > 1 << 40 for n in dimensions) or dimensions[0] % elements:
                raise self.bad(f"tensor {name!r} has an unsound shape", dimensions)
            tensors.append(
                GgufTensor(name, dimensions, known[code].name, start + offset, count // elements * width)
            )
        self.check_extents(tensors)
        return tensors

    def check_extents(self, tensors: list[GgufTensor]) -> None:
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise self.bad("a tensor name appears twice")
        end = 0
        for tensor in sorted(tensors, key=lambda t: t.offset):
            if tensor.offset < end:
                raise self.bad(f"tensor {tensor.name!r} overlaps another")
            end = tensor.offset + tensor.nbytes
            if end > self.size:
                raise self.bad(
                    f"tensor {tensor.name!r} lies outside the file",
                    f"an end at byte {end:,}",
                    f"<= {self.size:,}",
                )
