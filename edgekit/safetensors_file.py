"""Safetensors files, checked before anything trusts them: our own bounded header validation.

Format: 8 bytes of header length, a JSON header, the tensors' bytes
(https://huggingface.co/docs/safetensors/index#format).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.files import parse_json
from edgekit.openfile import OpenFile
from edgekit.tensors import TensorInfo

HEADER_LIMIT = 10 << 20
TENSOR_LIMIT = 65_536
DIMENSION_LIMIT = 8

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Extent:
    """One tensor's dtype, shape and place in its file (absolute offset, bytes)."""

    info: TensorInfo
    offset: int
    nbytes: int


class SafetensorsFile(OpenFile):
    """A safetensors file whose header was found sound; bytes are read by position, from any thread."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "the safetensors file")
        try:
            self.tensors = _read_header(self._descriptor, path)
        except BaseException:
            self.close()
            raise


def _read_header(descriptor: int, path: Path) -> dict[str, Extent]:
    size = os.fstat(descriptor).st_size
    if size < 8:
        raise InputError("truncated", path=path, found=f"{size} bytes", expected="a safetensors file")
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if length > HEADER_LIMIT or length > size - 8:
        raise InputError(
            "not a sound safetensors header",
            path=path,
            found=f"a header of {length:,} bytes in a file of {size:,}",
            expected=f"at most {min(HEADER_LIMIT, size - 8):,}",
            next_step="fetch or save the file again",
        )
    header = parse_json(os.pread(descriptor, length, 8), path)
    header.pop("__metadata__", None)
    if len(header) > TENSOR_LIMIT:
        raise InputError(
            "too many tensors", path=path, found=f"{len(header):,}", expected=f"<= {TENSOR_LIMIT:,}"
        )
    start = 8 + length
    tensors = {name: _extent(name, entry, start, size, path) for name, entry in header.items()}
    _check_layout(tensors, start, size, path)
    return tensors


def _extent(name: str, entry: Any, start: int, size: int, path: Path) -> Extent:
    """One header entry, with its dtype, shape and place checked against the file."""

    def bad(found: object, expected: str) -> InputError:
        return InputError(f"tensor {name!r} has an unsound header", path=path, found=found, expected=expected)

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise bad(str(entry)[:80], "dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise bad(f"dtype {dtype!r}", ", ".join(ITEM_BYTES))
    if not _is_sizes(shape) or len(shape) > DIMENSION_LIMIT:
        raise bad(f"shape {str(shape)[:80]}", f"at most {DIMENSION_LIMIT} sizes")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise bad(f"data_offsets {str(offsets)[:80]}", "two positions")
    begin, end = offsets
    nbytes = prod(shape) * ITEM_BYTES[dtype]
    if end - begin != nbytes:
        raise bad(f"{end - begin:,} bytes", f"{nbytes:,} for {dtype} {tuple(shape)}")
    if start + end > size:
        raise bad(f"an end at byte {start + end:,}", f"inside the file's {size:,} bytes; is it truncated?")
    return Extent(TensorInfo(dtype, tuple(shape)), start + begin, nbytes)


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in value)


def _check_layout(tensors: dict[str, Extent], start: int, size: int, path: Path) -> None:
    """The tensors must fill the file from end to end: no overlap, no hole, nothing behind them."""
    position, previous = start, "the header"
    for name, extent in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if extent.offset != position:
            what = "overlaps" if extent.offset < position else "leaves a hole after"
            raise InputError(f"tensor {name!r} {what} {previous!r}", path=path)
        position, previous = extent.offset + extent.nbytes, name
    if position != size:
        raise InputError(
            "the file's size doesn't match its header",
            path=path,
            found=f"{size:,} bytes",
            expected=f"{position:,}",
            next_step="fetch or save the file again",
        )
