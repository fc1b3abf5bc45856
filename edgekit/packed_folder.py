"""A folder of GPTQ or AWQ weights, as gptqmodel, transformers and vLLM read it; checked before any of them does.

Formats: https://github.com/AutoGPTQ/AutoGPTQ (``qweight`` ``(in * bits / 32, out)``) and https://github.com/casper-hansen/AutoAWQ
(``qweight`` ``(in, out * bits / 32)``), both with ``scales`` ``(groups, out)``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final, Literal, cast

from edgekit.errors import BundleError, EdgekitError, UnsupportedModelError
from edgekit.files import read_json, require_file
from edgekit.safetensors_file import SafetensorsFile
from edgekit.tensors import TensorInfo

CONFIG, QUANTIZE_CONFIG = "config.json", "quantize_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
WORDS: Final = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
Method = Literal["gptq", "awq"]
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_SIZES: Final = (
    "vocab_size", "num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "max_position_embeddings",
)  # fmt: skip


@dataclass(frozen=True)
class PackedFolder:
    """What its configuration and headers say; no weight was read."""

    folder: Path
    config: Mapping[str, Any]
    method: Method
    bits: int
    group_size: int
    """Weights that share a scale; -1: a whole row."""
    weights: tuple[Path, ...]
    tensors: Mapping[str, TensorInfo]
    eos_ids: tuple[int, ...]

    @property
    def context(self) -> int:
        """Tokens that the model takes: what it was trained for, or the window of its attention where that is less."""
        window = self.config.get("sliding_window") if self.config.get("use_sliding_window", True) else None
        trained: int = self.config["max_position_embeddings"]
        return min(trained, window) if isinstance(window, int) and window > 0 else trained

    @property
    def bos_id(self) -> int | None:
        """The token that texts begin with, if any is named."""
        found = self.config.get("bos_token_id")
        return found if isinstance(found, int) else None

    @property
    def files(self) -> list[Path]:
        """All that a runtime reads of it."""
        names = (CONFIG, QUANTIZE_CONFIG, INDEX, *WORDS)
        return [*self.weights, *(path for name in names if (path := self.folder / name).is_file())]


def read_packed(path: Path) -> PackedFolder:
    """Look at a folder, or at a weights file in it; ``BundleError`` for what is unsound or doesn't fit together."""
    folder = path if path.is_dir() else path.parent
    try:
        config = read_json(require_file(folder / CONFIG, CONFIG), limit=4 << 20)
        method, bits, group = _quantization(folder, config)
        weights = weight_files(folder)
        tensors: dict[str, TensorInfo] = {}
        for file in weights:
            with closing(SafetensorsFile(file)) as opened:
                tensors |= {name: extent.info for name, extent in opened.tensors.items()}
        ends = _eos(folder, config)
    except (BundleError, UnsupportedModelError):
        raise
    except EdgekitError as error:
        raise BundleError(
            error.what, path=error.path or folder, found=error.found, expected=error.expected
        ) from error
    found = PackedFolder(folder, config, method, bits, group, weights, tensors, ends)
    _check_tensors(found)
    return found


def _quantization(folder: Path, config: Mapping[str, Any]) -> tuple[Method, int, int]:
    path = folder / CONFIG
    if "auto_map" in config:
        raise UnsupportedModelError("the model asks to run code of its own (auto_map)", path=path)
    if "text_config" in config:
        raise UnsupportedModelError("a model of more than text", path=path, found="text_config")
    sizes = {name: config.get(name) for name in _SIZES}
    if wrong := [name for name, value in sizes.items() if type(value) is not int or not 0 < value < 1 << 24]:
        raise BundleError("the model has impossible sizes", path=path, found=f"{wrong[0]}: {sizes[wrong[0]]}")
    said = _method(config.get("quantization_config"), path)
    if (folder / QUANTIZE_CONFIG).is_file():
        also = _method(read_json(folder / QUANTIZE_CONFIG), folder / QUANTIZE_CONFIG)
        if also != said:
            raise BundleError(
                f"{QUANTIZE_CONFIG} and {CONFIG} disagree", path=folder / QUANTIZE_CONFIG,
                found="{} with {} bits and groups of {}".format(*also),
                expected="{} with {} bits and groups of {}".format(*said),
            )  # fmt: skip
    return said


def _method(block: Any, path: Path) -> tuple[Method, int, int]:
    block = block if isinstance(block, dict) else {}
    method, bits, group = block.get("quant_method"), block.get("bits"), block.get("group_size")
    if (
        method not in ("gptq", "awq")
        or bits not in (2, 3, 4, 8)
        or type(group) is not int
        or not (group == -1 or 0 < group < 1 << 20)
    ):
        raise BundleError(
            "no GPTQ or AWQ model", path=path, found=f"quant_method {method}, bits {bits}, group_size {group}",
            expected="quant_method gptq or awq, bits 2, 3, 4 or 8, and a group_size",
        )  # fmt: skip
    return cast(Method, method), bits, group


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint's folder, each there and inside it."""
    if not (folder / INDEX).is_file():
        return (require_file(folder / SINGLE, "the weights"),)
    named = read_json(folder / INDEX).get("weight_map")
    names = set(named.values()) if isinstance(named, dict) else set()
    if not names or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
        raise BundleError(
            "the index names no plain files", path=folder / INDEX, found=", ".join(map(str, names))[:200]
        )
    return tuple(require_file(folder / name, "the weights") for name in sorted(names))


def _eos(folder: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """generation_config.json knows best: chat models end turns by a token that config.json may not name."""
    path = folder / "generation_config.json"
    said = read_json(path).get("eos_token_id") if path.is_file() else None
    said = config.get("eos_token_id") if said is None else said
    found = said if isinstance(said, list) else [said]
    return tuple(one for one in found if isinstance(one, int))


def _check_tensors(found: PackedFolder) -> None:
    """Every packed weight has the scales that the configuration says, and there is one at least."""
    packed = [name for name in found.tensors if name.endswith(".qweight")]
    if not packed:
        raise BundleError("no packed weight in it", path=found.weights[0], expected="tensors named *.qweight")
    for name in packed:
        scales = found.tensors.get(name.removesuffix("qweight") + "scales")
        shape = found.tensors[name].shape
        if scales is None or len(scales.shape) != 2 or len(shape) != 2:
            raise BundleError("a packed weight without scales", path=found.weights[0], found=name)
        rows, columns = (
            (shape[0] * 32 // found.bits, shape[1])
            if found.method == "gptq"
            else (shape[0], shape[1] * 32 // found.bits)
        )
        groups = 1 if found.group_size == -1 else ceil(rows / found.group_size)
        if scales.shape != (groups, columns):
            raise BundleError(
                "the configuration disagrees with the tensors", path=found.folder / CONFIG,
                found=f"{name.removesuffix('.qweight')} has scales {scales.shape}",
                expected=f"{(groups, columns)} for {found.bits} bits and groups of {found.group_size}",
                next_step="fetch or build the model again",
            )  # fmt: skip
