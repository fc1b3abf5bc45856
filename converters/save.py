"""A merged model written as a checkpoint: safetensors shards in the base's dtype, a run of rows in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from edgekit.converters.dtypes import Bytes
from edgekit.converters.safetensors import ITEM_BYTES
from edgekit.errors import InputError
from edgekit.files import inside
from edgekit.tensors import TensorInfo, TensorSource

CHUNK_ELEMENTS = 1 << 20
SHARD_BYTES = 5 << 30
"""Shards are cut where huggingface_hub cuts them."""

WRITTEN = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
SIDECARS = (
    "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tekken.json", "chat_template.jinja", "preprocessor_config.json",
)  # fmt: skip
"""Files that belong to a model beside its weights and its config, taken along where they are."""

Report = Callable[[str, int], None]


@dataclass(frozen=True)
class Shard:
    """One file: its name, and its tensors with the dtype and shape that they are written in."""

    name: str
    tensors: dict[str, TensorInfo]

    def header(self) -> bytes:
        """Safetensors' header with its length in front, padded with spaces to 8 bytes."""
        offset, entries = 0, {}
        for name, info in self.tensors.items():
            end = offset + info.size * ITEM_BYTES[info.dtype]
            entries[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def save(
    source: TensorSource,
    beside: Path,
    folder: Path,
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    report: Report | None = None,
) -> None:
    """Write ``source`` into an empty ``folder``, with its config and the sidecars that are in ``beside``.

    ``dtype`` (F32, F16, BF16) is that of every tensor, else each keeps its own; 8-bit floats become BF16. Raises
    ``InputError`` for weights that the dtype can't hold.
    """
    shards = plan(source, dtype, shard_bytes)
    for shard in shards:
        with (folder / shard.name).open("wb") as file:
            file.write(shard.header())
            for name, info in shard.tensors.items():
                for rows in _stored(source, name, info):
                    file.write(rows.data)
                    if report:
                        report(name, rows.size // WRITTEN[info.dtype].itemsize)
    if len(shards) > 1:
        total = sum(info.size * ITEM_BYTES[info.dtype] for shard in shards for info in shard.tensors.values())
        weight_map = {name: shard.name for shard in shards for name in shard.tensors}
        _write_json(
            folder / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": weight_map},
        )
    config = {key: value for key, value in source.config.items() if key != "quantization_config"}
    _write_json(folder / "config.json", config)
    for name in SIDECARS:
        if (beside / name).exists():
            shutil.copyfile(inside(beside, name), folder / name)


def plan(source: TensorSource, dtype: str | None, shard_bytes: int) -> list[Shard]:
    """Which tensor goes into which shard, in the source's order."""
    if dtype is not None and dtype not in WRITTEN:
        raise InputError("weights aren't written in this dtype", found=dtype, expected=", ".join(WRITTEN))
    groups: list[dict[str, TensorInfo]] = [{}]
    filled = 0
    for name in source.names():
        info = source.info(name)
        kept = info.dtype if info.dtype in WRITTEN else "BF16"
        info = TensorInfo(dtype or kept, info.shape)
        nbytes = info.size * ITEM_BYTES[info.dtype]
        if groups[-1] and filled + nbytes > shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = info
        filled += nbytes
    if len(groups) == 1:
        return [Shard("model.safetensors", groups[0])]
    return [
        Shard(f"model-{i:05}-of-{len(groups):05}.safetensors", group) for i, group in enumerate(groups, 1)
    ]


def _stored(source: TensorSource, name: str, info: TensorInfo) -> Iterator[Bytes]:
    """A tensor's bytes, a run of rows at a time, rounded to nearest even."""
    step = max(1, CHUNK_ELEMENTS // max(1, info.size // max(1, info.rows)))
    for start in range(0, info.rows, step):
        rows = source.read(name, slice(start, min(start + step, info.rows)))
        if not np.isfinite(rows).all():
            raise InputError(
                f"tensor {name!r} holds values that aren't finite", next_step="check the checkpoint"
            )
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(rows.astype(WRITTEN[info.dtype])).reshape(-1)
        if not np.isfinite(stored).all():
            raise InputError(
                f"tensor {name!r} holds values that {info.dtype} can't",
                expected="a wider dtype, such as BF16",
            )
        yield stored.view(np.uint8)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
