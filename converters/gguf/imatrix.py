"""Importance matrices of llama-imatrix, as GGUF and in its older .dat format: read, bounded and checked; written as GGUF.

They hold, for every column of a weight (and every expert), the mean square of what it is multiplied with.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFWriter
from numpy.typing import NDArray

from edgekit.converters.gguf.family import STRING, U32, Entry
from edgekit.converters.gguf.presets import Preset
from edgekit.errors import InputError
from edgekit.files import read_bounded
from edgekit.gguf_header import GgufArray, GgufHeader, GgufTensor, parse_header
from edgekit.tensors import Float32

LIMIT = 1 << 30
"""Bytes at most: a model of 128 experts in 48 layers takes about 150 MB."""
ENTRIES = 65_536
NAME_LIMIT = 4096

_SUMS, _COUNTS = ".in_sum2", ".counts"
_TOKENS, _DIGEST = "edgekit.calibration.tokens", "edgekit.calibration.tokens_sha256"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOW = frozenset({Q.IQ3_XXS, Q.IQ2_XXS, Q.IQ2_XS, Q.IQ2_S, Q.IQ1_M, Q.IQ1_S})
_KERNELS = frozenset({Q.IQ2_XXS, Q.IQ2_XS, Q.IQ1_S})
"""Types that ggml's own quantizer aborts on without a matrix."""
_EXEMPT = frozenset({"output.weight", "token_embd.weight", "per_layer_token_embd.weight"})


@dataclass(frozen=True)
class Tokens:
    """What a matrix was computed on: how many token ids, and the SHA-256 of them as ``edgekit calibrate`` cuts them."""

    count: int
    sha256: str


@dataclass(frozen=True)
class ImportanceMatrix:
    """One matrix: by tensor, its values for all columns (of every expert, one after the other)."""

    path: Path
    values: Mapping[str, Float32]
    dataset: str | None
    chunks: int
    tokens: Tokens | None = None
    """Known where ``edgekit calibrate`` wrote the file."""

    def entries(self) -> list[Entry]:
        """What llama-quantize notes of it in the metadata; names of files without their folders."""
        found = [Entry("quantize.imatrix.file", self.path.name, STRING)]
        if self.dataset:
            found.append(Entry("quantize.imatrix.dataset", re.split(r"[/\\]", self.dataset)[-1], STRING))
        found.append(Entry("quantize.imatrix.entries_count", len(self.values), U32))
        if self.chunks > 0:
            found.append(Entry("quantize.imatrix.chunks_count", self.chunks, U32))
        return found

    def fit(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Float32]:
        """Each tensor's values as (experts, columns); ``InputError`` for names or sizes that the model hasn't."""
        if strangers := sorted(set(self.values) - set(shapes)):
            raise self._misfit(f"holds {len(strangers)} tensor(s) that the model doesn't have", strangers)
        fitted: dict[str, Float32] = {}
        wrong = []
        for name, values in self.values.items():
            shape = shapes[name]
            experts = shape[-3] if len(shape) > 2 else 1
            if values.size == experts * shape[-1]:
                fitted[name] = values.reshape(experts, shape[-1])
            elif name not in _EXEMPT:
                wrong.append(f"{name} ({values.size} values, expected {experts * shape[-1]})")
        if wrong:
            raise self._misfit("doesn't have the model's sizes", wrong)
        return fitted

    def _misfit(self, what: str, names: Sequence[str]) -> InputError:
        return InputError(
            f"the importance matrix {what}",
            path=self.path,
            found=_some(names),
            expected="a matrix that was computed on this very model",
            next_step="run llama-imatrix on the merged model's F16 or Q8_0 file",
        )


def check_needs(kinds: Mapping[str, Q], preset: Preset, fitted: Mapping[str, Float32] | None) -> None:
    """Refuse a low-bit type without the values that it can't do without; the tensors are named."""
    if missing := lacking(kinds, preset, fitted):
        raise InputError(
            f"{preset.name} can't do without an importance matrix"
            + ("" if fitted is None else ", and this one lacks some tensors"),
            found=f"no values for {_some([f'{name} ({kinds[name].name})' for name in missing])}",
            expected="--imatrix with a file that llama-imatrix wrote for this model",
            next_step="pass one, or choose a type of three bits or more, such as Q3_K_M",
        )


def lacking(kinds: Mapping[str, Q], preset: Preset, fitted: Mapping[str, Float32] | None) -> list[str]:
    """Names of the tensors that would get a low-bit type without the values that it can't do without."""
    return [name for name, kind in kinds.items() if name not in (fitted or {}) and _needs(name, kind, preset)]


def _needs(name: str, kind: Q, preset: Preset) -> bool:
    if name in _EXEMPT:
        return kind in _KERNELS
    return kind in _LOW or (kind is Q.Q2_K and preset.name == "Q2_K_S")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def read(path: Path) -> ImportanceMatrix:
    """Open a matrix in either format; ``InputError`` for anything unsound in it."""
    data = read_bounded(path, LIMIT)
    matrix = _read_gguf(path, data) if data[:4] == b"GGUF" else _read_dat(path, data)
    for name, values in matrix.values.items():
        # Sums of squares: a negative one would send the quantizers' square roots to NaN.
        if not np.isfinite(values).all() or (values < 0).any():
            raise _unsound(path, f"{name!r} holds values that aren't finite, or below zero")
    return matrix


def _read_gguf(path: Path, data: bytes) -> ImportanceMatrix:
    header = parse_header(path, data, len(data))
    lost = [f"imatrix.{key}" for key in ("datasets", "chunk_count", "chunk_size")]
    if lost := [key for key in lost if key not in header.keys]:
        raise _unsound(path, f"no {', '.join(lost)}: a GGUF file, but not of llama-imatrix")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    values: dict[str, Float32] = {}
    for name in sorted({name.removesuffix(_SUMS).removesuffix(_COUNTS) for name in tensors}):
        sums, counts = tensors.get(name + _SUMS), tensors.get(name + _COUNTS)
        if sums is None or counts is None:
            raise _unsound(path, f"{name!r} without its sums or its counts")
        values[name] = _means(path, name, _floats(path, data, sums), _floats(path, data, counts))
    if not values:
        raise _unsound(path, "no tensors")
    return ImportanceMatrix(path, values, *_origin(path, header), _tokens(path, header))


def _origin(path: Path, header: GgufHeader) -> tuple[str | None, int]:
    datasets, chunks = header.keys["imatrix.datasets"], header.keys["imatrix.chunk_count"]
    texts = datasets.first if isinstance(datasets, GgufArray) else [None]
    if type(chunks) is not int or not all(isinstance(text, str) for text in texts):
        raise _unsound(path, "imatrix.datasets or imatrix.chunk_count of another type")
    return (texts[0] if texts else None), chunks


def _tokens(path: Path, header: GgufHeader) -> Tokens | None:
    count, digest = header.keys.get(_TOKENS), header.keys.get(_DIGEST)
    if count is None and digest is None:
        return None
    if type(count) is not int or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise _unsound(path, f"{_TOKENS} or {_DIGEST} of another type")
    return Tokens(count, digest)


def _floats(path: Path, data: bytes, tensor: GgufTensor) -> Float32:
    if tensor.kind != "F32":
        raise _unsound(path, f"{tensor.name!r} is {tensor.kind}, expected F32")
    return np.frombuffer(data, "<f4", tensor.nbytes // 4, tensor.offset).astype(np.float32)


def _means(path: Path, name: str, sums: Float32, counts: Float32) -> Float32:
    """Sums over counts, one count an expert; experts that saw nothing count every column alike."""
    if not np.isfinite(counts).all() or np.abs(counts).max() > 2.0**53 or sums.size % counts.size:
        raise _unsound(path, f"{name!r} has {counts.size} counts for {sums.size} sums, or unsound ones")
    # Half away from zero, as llama.cpp's lround.
    whole = np.trunc(counts.astype(np.float64) + np.copysign(0.5, counts)).astype(np.float32)[:, None]
    if (whole < 0).any() or not whole.any():
        raise _unsound(
            path, f"{name!r} was computed on {int(whole.max())} rows: no data, or counts below zero"
        )
    table = sums.reshape(counts.size, -1)
    with np.errstate(all="ignore"):
        return np.where(whole > 0, table / whole, np.float32(1)).astype(np.float32).reshape(-1)


def write(
    path: Path,
    sums: Mapping[str, tuple[NDArray[np.float64], NDArray[np.int64]]],
    dataset: str,
    chunks: tuple[int, int],
    tokens: Tokens,
) -> None:
    """A matrix as llama-imatrix writes it: by tensor, sums of squares ``(matrices, columns)`` and the rows they are of.

    ``chunks`` are their number and their tokens. The same sums give the same bytes.
    """
    writer = GGUFWriter(path, "none")
    writer.kv_data[0].clear()  # an imatrix has no architecture
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", [dataset])
    writer.add_uint32("imatrix.chunk_count", chunks[0])
    writer.add_uint32("imatrix.chunk_size", chunks[1])
    writer.add_uint64(_TOKENS, tokens.count)
    writer.add_string(_DIGEST, tokens.sha256)
    for name in sorted(sums):
        squares, counts = sums[name]
        writer.add_tensor(name + _SUMS, squares.astype(np.float32))
        writer.add_tensor(name + _COUNTS, counts.astype(np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_dat(path: Path, data: bytes) -> ImportanceMatrix:
    """The older format: entries of name, calls, count and sums over calls; then the chunks and the dataset."""
    fields = _Fields(path, data)
    count = fields.whole("entries", 1, ENTRIES)
    values: dict[str, Float32] = {}
    for _ in range(count):
        name = fields.text(fields.whole("a name's length", 1, NAME_LIMIT))
        calls = fields.whole("calls", -(1 << 31), (1 << 31) - 1)
        sums = np.frombuffer(fields.take(4 * fields.whole("values", 1, LIMIT // 4)), "<f4")
        if name in values:
            raise _unsound(path, f"{name!r} twice")
        with np.errstate(all="ignore"):
            values[name] = (sums / np.float32(calls) if calls > 0 else sums).astype(np.float32)
    chunks, dataset = 0, None
    if not fields.done:
        chunks = fields.whole("chunks", 0, (1 << 31) - 1)
        if not fields.done:
            dataset = fields.text(fields.whole("the dataset's length", 0, NAME_LIMIT)) or None
    if not fields.done:
        raise _unsound(path, "bytes after the end")
    return ImportanceMatrix(path, values, dataset, chunks)


class _Fields:
    """Little-endian fields of a file, each checked to be there."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data, self.at = path, data, 0

    @property
    def done(self) -> bool:
        return self.at == len(self.data)

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise _unsound(self.path, f"an end inside a field of {count:,} bytes")
        self.at += count
        return self.data[self.at - count : self.at]

    def whole(self, what: str, low: int, high: int) -> int:
        value = int(struct.unpack("<i", self.take(4))[0])
        if not low <= value <= high:
            raise _unsound(self.path, f"{value} for {what}")
        return value

    def text(self, length: int) -> str:
        try:
            return self.take(length).rstrip(b"\0").decode("utf-8")
        except UnicodeDecodeError:
            raise _unsound(self.path, "a name that isn't UTF-8") from None


def _unsound(path: Path, found: str) -> InputError:
    return InputError(
        "not an importance matrix that can be read",
        path=path,
        found=found,
        expected="a file that llama-imatrix wrote: GGUF, or the older .dat",
    )


def spans(weights: Float32, rows_per_expert: int, at: int, count: int) -> Iterator[tuple[int, int, Float32]]:
    """Cut ``count`` rows from row ``at`` on where experts meet: start, stop and the expert's values."""
    start = 0
    while start < count:
        expert, within = divmod(at + start, rows_per_expert)
        stop = min(count, start + rows_per_expert - within)
        yield start, stop, weights[expert]
        start = stop
