"""A merged model written as a checkpoint: safetensors shards in the base's dtype, a run of rows in memory."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from threadpoolctl import threadpool_limits

from edgekit.converters.dtypes import Bytes
from edgekit.errors import InputError
from edgekit.files import inside
from edgekit.safetensors_file import ITEM_BYTES
from edgekit.tensors import TensorInfo, TensorSource

CHUNK_ELEMENTS = 1 << 20
SHARD_BYTES = 5 << 30
"""Shards are cut where huggingface_hub cuts them."""

WRITTEN = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
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
    threads: int = 1,
    report: Report | None = None,
) -> list[Shard]:
    """Write ``source`` into an empty ``folder``, with its config and the sidecars that are in ``beside``; the shards.

    ``dtype`` (F32, F16, BF16) is that of every tensor, else each keeps its own; 8-bit floats become BF16. Raises
    ``InputError`` for weights that the dtype can't hold.
    """
    shards = plan(source, dtype, shard_bytes)
    # One BLAS thread each, or two pools fight over the cores.
    with threadpool_limits(1, user_api="blas"):
        for shard in shards:
            _write(source, shard, folder / shard.name, threads, report)
    if len(shards) > 1:
        weight_map = {name: shard.name for shard in shards for name in shard.tensors}
        _write_json(
            folder / "model.safetensors.index.json",
            {"metadata": {"total_size": nbytes(shards)}, "weight_map": weight_map},
        )
    _write_json(folder / "config.json", _config(source.config, dtype))
    for name in SIDECARS:
        if (beside / name).exists():
            shutil.copyfile(inside(beside, name), folder / name)
    return shards


def _config(config: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
    """The config of plain weights: not quantized, and in ``dtype`` if that is given."""
    found = {key: value for key, value in config.items() if key != "quantization_config"}
    for key in ("dtype", "torch_dtype"):
        if dtype is not None and key in found:
            found[key] = _NAMES[dtype]
    if isinstance(inner := found.get("text_config"), dict):
        found["text_config"] = _config(inner, dtype)
    return found


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


@dataclass(frozen=True)
class _Run:
    """Rows of a tensor, and where their bytes go in its file."""

    name: str
    info: TensorInfo
    rows: slice
    offset: int


def _runs(shard: Shard, offset: int) -> Iterator[_Run]:
    for name, info in shard.tensors.items():
        width = info.size // max(1, info.rows)
        step = max(1, CHUNK_ELEMENTS // max(1, width))
        for start in range(0, info.rows, step):
            rows = slice(start, min(start + step, info.rows))
            yield _Run(name, info, rows, offset + start * width * ITEM_BYTES[info.dtype])
        offset += info.size * ITEM_BYTES[info.dtype]


def _write(source: TensorSource, shard: Shard, path: Path, threads: int, report: Report | None) -> None:
    """Fill a file from several threads, each of which holds a run of rows."""
    header, lock, stop = shard.header(), threading.Lock(), threading.Event()
    todo = _runs(shard, len(header))

    def work(descriptor: int) -> None:
        try:
            while not stop.is_set():
                with lock:
                    run = next(todo, None)
                if run is None:
                    return
                data = _stored(source, run)
                _put(descriptor, data, run.offset)
                if report:
                    with lock:
                        report(run.name, data.size // ITEM_BYTES[run.info.dtype])
        except BaseException:
            stop.set()
            raise

    with path.open("wb") as file, ThreadPoolExecutor(threads, "merge") as pool:
        file.write(header)
        file.flush()
        futures = [pool.submit(work, file.fileno()) for _ in range(threads)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
        for future in futures:
            future.result()


def _put(descriptor: int, data: Bytes, offset: int) -> None:
    view, done = data.data, 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)


def _stored(source: TensorSource, run: _Run) -> Bytes:
    """The bytes of some rows, rounded to nearest even."""
    rows = source.read(run.name, run.rows)
    if not np.isfinite(rows).all():
        raise InputError(
            f"tensor {run.name!r} holds values that aren't finite", next_step="check the checkpoint"
        )
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(rows.astype(WRITTEN[run.info.dtype])).reshape(-1)
    if not np.isfinite(stored).all():
        raise InputError(
            f"tensor {run.name!r} holds values that {run.info.dtype} can't",
            expected="a wider dtype, such as BF16",
        )
    return stored.view(np.uint8)


def nbytes(shards: Sequence[Shard]) -> int:
    """Bytes of all weights."""
    return sum(info.size * ITEM_BYTES[info.dtype] for shard in shards for info in shard.tensors.values())


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
