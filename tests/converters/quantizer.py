"""llama.cpp's own quantizer through ctypes, and models that it takes: any names and shapes, random weights."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from edgekit.converters.gguf import plan, presets
from edgekit.converters.gguf.family import F32, U32, Entry, Mapped
from edgekit.converters.gguf.vocabulary import Vocabulary
from edgekit.tensors import ALL, Float32, TensorInfo, span, turned

Matrix = Mapping[str, Float32]

_LINE = re.compile(r"\] +(\S+) +- \[[^]]*\], type = +(\S+), size = +[\d.]+ MiB(?: -> +[\d.]+ MiB \((\S+)\))?")


@dataclass
class Arrays:
    """A ``TensorSource`` of arrays in memory."""

    arrays: Mapping[str, Float32]
    config: Mapping[str, Any] = field(default_factory=dict)

    def names(self) -> Sequence[str]:
        return tuple(self.arrays)

    def info(self, name: str) -> TensorInfo:
        return TensorInfo("F32", self.arrays[name].shape)

    def read(self, name: str, rows: slice = ALL, out: Float32 | None = None) -> Float32:
        info = self.info(name)
        start, stop = span(rows, info.rows)
        flat = self.arrays[name].reshape(info.part(info.rows))
        if out is None:
            out = np.empty(info.part(stop - start), np.float32)
        out[...] = flat[start:stop]
        return out

    def read_columns(self, name: str, columns: slice = ALL, out: Float32 | None = None) -> Float32:
        return turned(self, name, columns, out)

    def prefetch(self, name: str, rows: slice = ALL) -> None:
        pass


def layout(model: presets.Model, shapes: Mapping[str, tuple[int, ...]]) -> plan.Layout:
    """A model that llama.cpp quantizes, though it could not run it."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    counts = {"block_count": model.layers, "context_length": 64, "embedding_length": 256,
              "feed_forward_length": 256, "attention.head_count": model.heads,
              "attention.head_count_kv": model.kv_heads}  # fmt: skip
    if model.experts:
        counts |= {"expert_count": model.experts, "expert_used_count": 2}
    entries = [Entry(f"{model.arch}.{key}", value, U32) for key, value in counts.items()]
    for norm in ("layer_norm_epsilon", "layer_norm_rms_epsilon"):
        entries.append(Entry(f"{model.arch}.attention.{norm}", 1e-5, F32))
    mapped = [Mapped(name, shape, name) for name, shape in shapes.items()]
    words = Vocabulary("none", "default", ["a"], [gguf.TokenType.NORMAL], [], {}, {}, None, "")
    return plan.Layout(Arrays(arrays), model.arch, model, entries, mapped, words, "test")


def quantize(
    source: Path,
    target: Path,
    file_type: int,
    override: tuple[str, int] | None = None,
    matrix: Matrix | None = None,
    **more: bool,
) -> dict[str, str] | None:
    """Run llama_model_quantize; returns the types it logs (only those that change), or None if it refuses."""
    import llama_cpp

    from edgekit.runtimes import _llamalib

    said: list[bytes] = []
    callback = llama_cpp.llama_log_callback(lambda _, text, __: said.append(text))
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 2
    for name, value in more.items():
        setattr(params, name, value)
    kept = []
    if override:
        pattern = (llama_cpp.llama_model_tensor_override * 2)()
        pattern[0].pattern, pattern[0].type = override[0].encode(), override[1]
        params.tt_overrides = ctypes.cast(pattern, type(params.tt_overrides))
        kept.append(pattern)
    if matrix is not None:
        entries = (llama_cpp.llama_model_imatrix_data * (len(matrix) + 1))()
        for entry, (name, values) in zip(entries, matrix.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
        kept.append(entries)
    try:
        status = llama_cpp.llama_model_quantize(
            str(source).encode(), str(target).encode(), ctypes.byref(params)
        )
    finally:
        _llamalib.load.cache_clear()
        _llamalib.load()
    return None if status else dict(_types(b"".join(said).decode("utf-8", "replace")))


def _types(log: str) -> list[tuple[str, str]]:
    return [(name, (new or old).upper()) for name, old, new in _LINE.findall(log)]


def random_matrix(
    shapes: Mapping[str, tuple[int, ...]], skip: Sequence[str] = ("output", "token_embd")
) -> Matrix:
    """Positive values for every matrix, some of them zero, as llama-imatrix would find them."""
    rng = np.random.default_rng(1)
    out = {}
    for name, shape in shapes.items():
        if len(shape) < 2 or name.startswith(tuple(skip)) or "norm" in name:
            continue
        size = shape[-1] * (shape[-3] if len(shape) > 2 else 1)
        values = rng.standard_normal(size).astype(np.float32) ** 2
        values[::97] = 0
        out[name] = values
    return out


def assert_same_tensors(ours: Path, theirs: Path) -> None:
    """The same names, types and bytes."""
    expected = {tensor.name: tensor for tensor in gguf.GGUFReader(theirs).tensors}
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(ours).tensors}
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert tensor.tensor_type == expected[name].tensor_type, name
        assert np.array_equal(tensor.data, expected[name].data), name
