"""The families that are converted, and finding a model's from config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.converters.gguf import (
    gemma,
    gemma2,
    gemma3,
    gemma4,
    gpt2,
    granite,
    lfm2,
    llama,
    mistral,
    mixtral,
    olmo2,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_5,
    qwen3_moe,
    smollm3,
    stablelm,
)
from edgekit.converters.gguf.family import Family, unsupported, whole
from edgekit.converters.text_model import WRAPPERS
from edgekit.errors import UnsupportedModelError
from edgekit.tensors import TensorSource

FAMILIES: tuple[Family, ...] = (
    llama,
    mistral,
    qwen2,
    qwen3,
    granite,
    olmo2,
    smollm3,
    gemma,
    gemma2,
    gemma3,
    gemma4,
    phi3,
    stablelm,
    gpt2,
    mixtral,
    qwen2_moe,
    qwen3_moe,
    lfm2,
    qwen3_5,
)

LAYERS = 512
"""llama.cpp's LLAMA_MAX_LAYERS."""


def named(config: Mapping[str, Any]) -> Family | None:
    """The family that a config's ``architectures`` name, the config unchecked."""
    names = config.get("architectures")
    names = names if isinstance(names, list) else []
    return next((f for f in FAMILIES if any(name in f.ARCHITECTURES for name in names)), None)


def find(config: Mapping[str, Any], path: Path) -> Family:
    """The family of a checkpoint, its config checked; ``UnsupportedModelError`` with the list of those known."""
    family = named(config)
    if family is None:
        known = ", ".join([*(name for f in FAMILIES for name in f.ARCHITECTURES), *WRAPPERS])
        raise UnsupportedModelError(
            "a model of this architecture isn't converted to GGUF yet",
            path=path,
            found=f"{config.get('architectures') or 'none'} (model_type {config.get('model_type', 'unknown')})"[
                :200
            ],
            expected=known,
            next_step="--with-llama-cpp DIR merges it and has your llama.cpp's converter convert it, where that knows the model",
        )
    for key in ("num_hidden_layers", "n_layer"):
        if config.get(key) is not None and whole(config, key) > LAYERS:
            raise unsupported("more layers than llama.cpp runs", config[key], f"at most {LAYERS}")
    family.check(config)
    return family


def check_consumed(source: TensorSource, used: set[str], family: Family, path: Path) -> None:
    """Every tensor of the checkpoint must have gone somewhere."""
    left = [n for n in source.names() if n not in used and not n.endswith(tuple(family.IGNORED))]
    if left:
        raise UnsupportedModelError(
            f"the family's layout has no place for {len(left)} of the checkpoint's tensors",
            path=path,
            found=", ".join(left[:3]),
            expected="only tensors that the architecture defines",
        )
