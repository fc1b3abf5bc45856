"""Open a PEFT LoRA adapter and lint it: what it trains, how strongly, and what would not merge."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.converters.adapter_config import check_kind, pattern_value, targets
from edgekit.converters.dtypes import FLOATS
from edgekit.converters.safetensors import SafetensorsFile
from edgekit.errors import AdapterError
from edgekit.files import inside, read_json, require_file, require_folder
from edgekit.tensors import TensorInfo, TensorSource

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
OUTER = ("transformer.", "model.")
"""What the model class puts before names that some checkpoints store without (GPT-2's do)."""
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")
_SAVED = re.compile(r"(?P<module>.+?)(\.modules_to_save)?(\.default)?\.(?P<parameter>weight|bias)")


@dataclass(frozen=True)
class Pair:
    """The two factors of one module: ``A`` (rank, in), ``B`` (out, rank), and what ``B @ A`` is scaled by."""

    module: str
    a: str
    b: str
    rank: int
    scale: float


class Adapter:
    """An adapter whose kind edgekit merges. Opening it checks its files and its kind, not its fit."""

    def __init__(self, folder: Path) -> None:
        self.folder = require_folder(folder, "the adapter")
        self.config = _read_config(folder)
        self.file = SafetensorsFile(_weights(folder))
        self.pairs: dict[str, Pair] = {}
        self.saved: dict[str, str] = {}
        self.problems: list[str] = []
        try:
            self._sort_tensors()
        except BaseException:
            self.file.close()
            raise

    @property
    def base_name(self) -> str | None:
        """The base that the adapter says it was trained on."""
        name = self.config.get("base_model_name_or_path")
        return str(name) if name else None

    def info(self, name: str) -> TensorInfo:
        """Dtype and shape of one of the adapter's own tensors."""
        return self.file.tensors[name].info

    def close(self) -> None:
        """Close the adapter's file."""
        self.file.close()

    def _sort_tensors(self) -> None:
        """Give every tensor its part: a factor, a saved module, or a problem."""
        sides: dict[str, dict[str, str]] = {}
        for name, extent in self.file.tensors.items():
            key = name.removeprefix(PREFIX)
            if extent.info.dtype not in FLOATS or extent.info.dtype.startswith("F8"):
                self.problems.append(f"tensor {name!r} is {extent.info.dtype}, expected F32, F16 or BF16")
            elif match := _LORA.fullmatch(key):
                self._put(sides.setdefault(match["module"], {}), match["side"], name)
            elif "lora_" not in key and (match := _SAVED.fullmatch(key)) and self._saves(match["module"]):
                self._put(self.saved, f"{match['module']}.{match['parameter']}", name)
            else:
                self.problems.append(f"nothing consumes tensor {name!r}")
        for module, names in sides.items():
            if len(names) == 2:
                self._pair(module, names["A"], names["B"])
            else:
                self.problems.append(f"{module}: lora_{'BA'['B' in names]} is missing")

    def _put(self, places: dict[str, str], place: str, name: str) -> None:
        if place in places:
            self.problems.append(f"two tensors for one place: {places[place]!r} and {name!r}")
        places[place] = name

    def asked(self, tensor: str) -> bool:
        """Whether ``modules_to_save`` names the module of a tensor that was saved whole."""
        module, wanted = tensor.rpartition(".")[0], self.config.get("modules_to_save") or []
        return any(module == m or module.endswith(f".{m}") for m in wanted)

    def _saves(self, module: str) -> bool:
        # PEFT also writes the embeddings that it found resized or targeted, unasked.
        return self.asked(f"{module}.") or module.rpartition(".")[2] in {"embed_tokens", "lm_head"}

    def _pair(self, module: str, a: str, b: str) -> None:
        config, shape_a, shape_b = self.config, self.info(a).shape, self.info(b).shape
        rank = pattern_value(config.get("rank_pattern"), module, config["r"])
        alpha = pattern_value(config.get("alpha_pattern"), module, config["lora_alpha"])
        if len(shape_a) != 2 or len(shape_b) != 2 or shape_a[0] != rank or shape_b[1] != rank:
            self.problems.append(
                f"{module}: lora_A is {shape_a} and lora_B is {shape_b}, the configuration says rank {rank}"
            )
        elif not targets(config, module):
            self.problems.append(f"{module}: has weights, but the configuration does not target it")
        else:
            scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
            self.pairs[module] = Pair(module, a, b, int(rank), float(scale))


def _weights(folder: Path) -> Path:
    path = folder / WEIGHTS
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise AdapterError(
            "a pickle adapter: opening one can run any code",
            path=folder / "adapter_model.bin",
            expected=WEIGHTS,
            next_step="save it once with save_pretrained(..., safe_serialization=True) where you trust it",
        )
    return require_file(inside(folder, WEIGHTS), "the adapter's weights")


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = require_file(inside(folder, "adapter_config.json"), "adapter_config.json")
    config = read_json(path, limit=4 << 20)
    check_kind(config, path)
    return config


def tensor_of(base: TensorSource, module: str, parameter: str = "weight") -> str | None:
    """The base's name of a module's parameter: as it is, or without transformers' outer prefix; None if absent."""
    names = base.names()
    for candidate in (module, *(module.removeprefix(p) for p in OUTER if module.startswith(p))):
        if f"{candidate}.{parameter}" in names:
            return f"{candidate}.{parameter}"
    return None


def input_embedding(names: Sequence[str]) -> str | None:
    """The tensor that token ids look up, by the names that checkpoints give it."""
    return next((n for n in names if n.endswith(("embed_tokens.weight", "wte.weight"))), None)


def is_tied(base: TensorSource) -> bool:
    """Whether the output head is the input embedding."""
    return base.config.get("tie_word_embeddings", True) is True and "lm_head.weight" not in base.names()
