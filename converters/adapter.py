"""Open an adapter, PEFT's or MLX's, and lint it: what it trains, how strongly, and what would not merge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.converters import mlx_adapter
from edgekit.converters.adapter_config import check_kind
from edgekit.converters.adapter_parts import Pair, Parts
from edgekit.converters.dtypes import scratch, widen
from edgekit.errors import AdapterError
from edgekit.files import inside, read_json, require_file, require_folder
from edgekit.safetensors_file import SafetensorsFile
from edgekit.tensors import Float32, TensorInfo

WEIGHTS = "adapter_model.safetensors"


class Adapter:
    """An adapter whose kind edgekit merges. Opening it checks its files and its kind, not its fit."""

    def __init__(self, folder: Path) -> None:
        self.folder = require_folder(folder, "the adapter")
        path = require_file(inside(folder, "adapter_config.json"), "adapter_config.json")
        config: Mapping[str, Any] = read_json(path, limit=4 << 20)
        self.mlx = mlx_adapter.is_mlx(config)
        if not self.mlx:
            check_kind(config, path)
        self.file = SafetensorsFile(_weights(folder, self.mlx))
        try:
            self.config = mlx_adapter.as_peft(config, path, self.file.tensors) if self.mlx else config
            infos = {name: extent.info for name, extent in self.file.tensors.items()}
            parts = Parts(self.config, infos, lambda one, other: same_bytes(self, one, self, other), self.mlx)
            self.notes = _notes(self, config)
        except BaseException:
            self.file.close()
            raise
        self.pairs, self.saved, self.tokens = parts.pairs, parts.saved, parts.tokens
        self.problems = parts.problems
        self.experts = lru_cache(2)(self._read_experts)

    @property
    def base_name(self) -> str | None:
        """The base that the adapter says it was trained on."""
        name = self.config.get("base_model_name_or_path")
        return str(name) if name else None

    def info(self, name: str) -> TensorInfo:
        """Dtype and shape of one of the adapter's own tensors."""
        return self.file.tensors[name].info

    def shape(self, pair: Pair) -> tuple[int, int]:
        """(out, in) of a pair's product."""
        return self.factor_shape(pair.b)[0], self.factor_shape(pair.a)[1]

    def close(self) -> None:
        """Close the adapter's file."""
        self.file.close()

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Float32 | None = None) -> Float32:
        """Rows of one of the adapter's tensors in float32; ``AdapterError`` if they aren't finite."""
        extent = self.file.tensors[name]
        info = extent.info
        stop = info.rows if stop is None else stop
        if out is None:
            out = np.empty(info.part(stop - start), np.float32)
        row_bytes = extent.nbytes // max(1, info.rows)
        raw = scratch((stop - start) * row_bytes)
        self.file.read_into(extent.offset + start * row_bytes, raw.data)
        if info.dtype == "F32":
            out.reshape(-1)[...] = raw.view("<f4")
        else:
            widen(raw, info.dtype, out.reshape(-1))
        if not np.isfinite(out).all():
            raise AdapterError(f"tensor {name!r} holds values that aren't finite", path=self.file.path)
        return out

    def factor(self, name: str) -> Float32:
        """A whole factor the way PEFT stores it: ``A`` (rank, in) or ``B`` (out, rank)."""
        return self.read(name).T if self.mlx else self.read(name)

    def _read_experts(self, name: str, experts: int) -> Float32:
        """``B`` of a stack of experts as (experts, out, rank): the file has the experts interleaved."""
        b = self.read(name)
        return np.ascontiguousarray(b.reshape(b.shape[0], -1, experts).transpose(2, 0, 1))

    def factor_shape(self, name: str) -> tuple[int, ...]:
        """The shape that ``factor`` gives."""
        shape = self.info(name).shape
        return shape[::-1] if self.mlx else shape


def same_bytes(one: Adapter, name: str, other: Adapter, its: str) -> bool:
    """Whether two tensors of adapters are the same, bit by bit; read in bounded pieces."""
    first, second = one.file.tensors[name], other.file.tensors[its]
    if first.info != second.info:
        return False
    step = 8 << 20
    left, right = bytearray(min(step, first.nbytes)), bytearray(min(step, first.nbytes))
    for offset in range(0, first.nbytes, step):
        size = min(step, first.nbytes - offset)
        one.file.read_into(first.offset + offset, memoryview(left)[:size])
        other.file.read_into(second.offset + offset, memoryview(right)[:size])
        if memoryview(left)[:size] != memoryview(right)[:size]:
            return False
    return True


def _weights(folder: Path, mlx: bool) -> Path:
    if mlx:
        return require_file(inside(folder, mlx_adapter.WEIGHTS), "the adapter's weights")
    path = folder / WEIGHTS
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise AdapterError(
            "a pickle adapter: opening one can run any code",
            path=folder / "adapter_model.bin",
            expected=WEIGHTS,
            next_step="save it once with save_pretrained(..., safe_serialization=True) where you trust it",
        )
    return require_file(inside(folder, WEIGHTS), "the adapter's weights")


_FOUR_BITS = re.compile(r"4[-_]?bit|bnb|nf4|gptq|awq|int4", re.IGNORECASE)


def _notes(adapter: Adapter, config: Mapping[str, Any]) -> list[str]:
    """What a person should know although it merges."""
    beside = adapter.folder / "config.json"
    trained_on: Iterable[Any] = [config.get("base_model_name_or_path"), config.get("model")]
    packed = any(isinstance(name, str) and _FOUR_BITS.search(name) for name in trained_on)
    if not packed and beside.exists():
        packed = bool(
            read_json(inside(adapter.folder, beside.name), limit=4 << 20).get("quantization_config")
        )
    if not packed:
        return []
    return [
        "trained on a quantized base: merging into the 16-bit one is right, small differences come from the "
        + "rounding that training saw"
    ]
