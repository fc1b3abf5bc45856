"""A checkpoint without its weights: config.json, and the index where there is one; shapes are those that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.converters.checkpoint import INDEX, SINGLE, read_config
from edgekit.errors import InputError
from edgekit.files import inside, read_json, require_folder
from edgekit.safetensors_file import SafetensorsFile
from edgekit.tensors import ALL, Float32, TensorInfo

UNKNOWN = TensorInfo("BF16", ())
"""A tensor that the index names, until a family says what shape it has."""


class Foreseen:
    """A ``TensorSource`` to plan with, as ``Checkpoint`` is one to build with: nothing of it can be read.

    Families ask for every tensor by the shape that config.json implies (``family.expect``); so it is learned. Without
    an index even the names are: then tensors that some checkpoints have and others don't are as the config says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = require_folder(folder, "the checkpoint")
        self.config: Mapping[str, Any] = read_config(folder)
        self.files: list[SafetensorsFile] = []
        index = folder / INDEX
        self.named = index.exists()
        named = read_json(inside(folder, INDEX)).get("weight_map") if self.named else {}
        if not isinstance(named, dict):
            raise InputError(
                "the index has no weight_map", path=index, expected="tensor names and their shards"
            )
        self._infos: dict[str, TensorInfo] = dict.fromkeys(named, UNKNOWN)

    @property
    def notes(self) -> Sequence[str]:
        """What is taken for granted."""
        if self.named:
            return ("no weights here: shapes are those that config.json and the index imply",)
        return ("no weights and no index here: tensors are those that config.json implies",)

    def names(self) -> Sequence[str]:
        return tuple(self._infos)

    def info(self, name: str) -> TensorInfo:
        if not self.named and name.endswith(".bias") and _has_bias(name, self.config):
            return self._infos.get(name, UNKNOWN)
        return self._infos[name]

    def learn(self, name: str, shape: tuple[int, ...]) -> None:
        """A family expects this tensor; ``KeyError`` if the index doesn't name it."""
        if self.named and name not in self._infos:
            raise KeyError(name)
        self._infos[name] = TensorInfo("BF16", shape)

    def read(self, name: str, rows: slice = ALL, out: Float32 | None = None) -> Float32:
        raise InputError(f"tensor {name!r} isn't here", path=self.folder, expected="the checkpoint's weights")

    def read_columns(self, name: str, columns: slice = ALL, out: Float32 | None = None) -> Float32:
        return self.read(name)

    def prefetch(self, name: str, rows: slice = ALL) -> None:
        pass

    def close(self) -> None:
        """Nothing is open."""


def lacks_weights(folder: Path) -> bool:
    """Whether a folder has a config but not all of its weights; one that holds other formats doesn't count."""
    if not (folder / "config.json").is_file() or (folder / SINGLE).exists():
        return False
    if not (folder / INDEX).exists():
        return not any(path.suffix in {".bin", ".pt", ".pth"} for path in folder.iterdir())
    shards = read_json(inside(folder, INDEX)).get("weight_map")
    names = {name for name in shards.values() if isinstance(name, str)} if isinstance(shards, dict) else set()
    return any(not inside(folder, name).exists() for name in names)


def _has_bias(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint of this config has a bias that not all of its family have."""
    module = name.split(".")[-2]
    if "norm" in module or module.startswith("ln_"):
        return "layer_norm_eps" in config or "layer_norm_epsilon" in config
    if module in {"q_proj", "k_proj", "v_proj"} and config.get("use_qkv_bias"):
        return True
    return module.endswith("_proj") and bool(config.get("mlp_bias" if ".mlp." in name else "attention_bias"))
