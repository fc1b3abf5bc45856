"""Open a Hugging Face checkpoint: headers first and checked, tensors read by rows when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.converters.columns import Columns
from edgekit.converters.dtypes import FLOATS, scratch, widen
from edgekit.converters.fp8 import IGNORED_SUFFIXES, SCALE_SUFFIXES, Scale, check_quantization, make_scale
from edgekit.errors import InputError, UnsupportedModelError
from edgekit.files import inside, read_json, require_file, require_folder
from edgekit.safetensors_file import Extent, SafetensorsFile
from edgekit.tensors import ALL, Float32, TensorInfo, span, turned

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Checkpoint:
    """A checkpoint folder as a ``TensorSource``; everything that can be checked without reading tensors is."""

    def __init__(self, folder: Path) -> None:
        self.folder = require_folder(folder, "the checkpoint")
        self.config: Mapping[str, Any] = read_config(folder)
        self.files: list[SafetensorsFile] = []
        self._places: dict[str, tuple[SafetensorsFile, Extent]] = {}
        self._scales: dict[str, Scale] = {}
        self._columns = Columns()
        try:
            for path in shard_paths(folder):
                self._add(SafetensorsFile(path))
            self._check_index()
            self._read_scales()
        except BaseException:
            self.close()
            raise
        applied = {name + suffix for name in self._scales for suffix in SCALE_SUFFIXES}
        self._names = tuple(n for n in self._places if n not in applied and not n.endswith(IGNORED_SUFFIXES))

    def names(self) -> Sequence[str]:
        return self._names

    def info(self, name: str) -> TensorInfo:
        return self._places[name][1].info

    def file_of(self, name: str) -> Path:
        """The shard that holds a tensor."""
        return self._places[name][0].path

    def read(self, name: str, rows: slice = ALL, out: Float32 | None = None) -> Float32:
        file, extent = self._places[name]
        info = extent.info
        start, stop = span(rows, info.rows)
        out = _matching(out, info.part(stop - start))
        offset, nbytes = self._range(extent, start, stop)
        flat = out.reshape(-1)
        if info.dtype == "F32":
            file.read_into(offset, flat.view(np.uint8).data)
        else:
            raw = scratch(nbytes)
            file.read_into(offset, raw.data)
            widen(raw, info.dtype, flat)
        if name in self._scales:
            self._scales[name].apply(out, start)
        return out

    def read_columns(self, name: str, columns: slice = ALL, out: Float32 | None = None) -> Float32:
        file, extent = self._places[name]
        if name in self._scales:
            return turned(self, name, columns, out)
        rows, width = extent.info.shape
        start, stop = span(columns, width)
        out = _matching(out, (stop - start, rows))
        self._columns.read(name, file, extent, range(start, stop), out)
        return out

    def prefetch(self, name: str, rows: slice = ALL) -> None:
        file, extent = self._places[name]
        file.prefetch(*self._range(extent, *span(rows, extent.info.rows)))

    def close(self) -> None:
        """Close the shards."""
        for file in self.files:
            file.close()

    @staticmethod
    def _range(extent: Extent, start: int, stop: int) -> tuple[int, int]:
        row_bytes = extent.nbytes // max(1, extent.info.rows)
        return extent.offset + start * row_bytes, (stop - start) * row_bytes

    def _add(self, file: SafetensorsFile) -> None:
        self.files.append(file)
        for name, extent in file.tensors.items():
            if name in self._places:
                raise InputError(
                    f"tensor {name!r} is there twice",
                    path=file.path,
                    found=f"also in {self._places[name][0].path}",
                )
            if extent.info.dtype not in FLOATS and not name.endswith(IGNORED_SUFFIXES):
                raise UnsupportedModelError(
                    f"tensor {name!r} is not of a floating-point type that weights come in",
                    path=file.path,
                    found=extent.info.dtype,
                    expected=", ".join(FLOATS),
                    next_step="use the checkpoint from before it was quantized or packed",
                )
            self._places[name] = (file, extent)

    def _check_index(self) -> None:
        """Every tensor that the index names must be in the shard it names."""
        index = self.folder / INDEX
        if (self.folder / SINGLE).exists() or not index.exists():
            return
        for name, shard in read_json(index)["weight_map"].items():
            if name not in self._places or self._places[name][0].path.name != Path(shard).name:
                raise InputError(
                    f"tensor {name!r} is not in the shard that the index names", path=index, found=shard
                )

    def _is_scale(self, name: str) -> bool:
        if name.endswith(IGNORED_SUFFIXES):
            return True
        return any(
            name.endswith(suffix) and name.removesuffix(suffix) in self._places for suffix in SCALE_SUFFIXES
        )

    def _read_scales(self) -> None:
        """Find the scale of every 8-bit float weight; they are small and kept."""
        scales = {}
        for name, (file, extent) in self._places.items():
            if not extent.info.dtype.startswith("F8") or self._is_scale(name):
                continue
            beside = next((name + suffix for suffix in SCALE_SUFFIXES if name + suffix in self._places), None)
            if beside is None:
                raise UnsupportedModelError(
                    f"tensor {name!r} holds 8-bit floats without their scales",
                    path=file.path,
                    found=extent.info.dtype,
                    expected=f"{name}_scale_inv or {name}_scale beside it",
                    next_step="use the 16-bit checkpoint that this one was made from",
                )
            scales[name] = make_scale(self.read(beside), extent.info, name, file.path, self.config)
        self._scales = scales


def _matching(out: Float32 | None, shape: tuple[int, ...]) -> Float32:
    if out is None:
        return np.empty(shape, np.float32)
    if out.shape != shape or not out.flags.c_contiguous:
        raise ValueError(f"out has shape {out.shape}, what is read has {shape}")
    return out


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, refused where it asks for code of its own or for a quantizer's format."""
    path = inside(folder, "config.json")
    config = read_json(require_file(path, "config.json"), limit=4 << 20)
    if "auto_map" in config:
        raise UnsupportedModelError(
            "the checkpoint asks to run code of its own (auto_map)",
            path=path,
            expected="a model of a known architecture; edgekit never runs a checkpoint's code",
        )
    check_quantization(config, path)
    return config


def shard_paths(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in order; each is checked to exist and to stay in the folder."""
    if (folder / SINGLE).exists() or (folder / SINGLE).is_symlink():
        return [require_file(inside(folder, SINGLE), "the checkpoint's weights")]
    index = folder / INDEX
    if not index.exists():
        raise _no_weights(folder)
    weight_map = read_json(inside(folder, INDEX)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError("the index has no weight_map", path=index, expected="tensor names and their shards")
    if not all(isinstance(shard, str) for shard in weight_map.values()):
        raise InputError("the index names a shard by something other than text", path=index)
    paths = []
    for shard in sorted(set(weight_map.values())):
        path = inside(folder, shard)
        if not path.exists():
            raise InputError("a shard is missing", path=path, next_step=f"fetch {shard} into {folder}")
        paths.append(path)
    return paths


def _no_weights(folder: Path) -> InputError:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        return InputError(
            "a pickle checkpoint: opening one can run any code",
            path=folder,
            found=", ".join(pickles[:3]),
            expected="model.safetensors",
            next_step="save it once with save_pretrained(..., safe_serialization=True) where you trust it",
        )
    return InputError("no weights here", path=folder, expected=f"{SINGLE}, or shards with {INDEX}")
