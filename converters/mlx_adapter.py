"""Adapters of mlx-lm (``adapters.safetensors``), told in PEFT's terms.

``lora_a`` is (in, rank) and ``lora_b`` (rank, out): both are PEFT's factors transposed. The change is
``scale · (lora_a @ lora_b)ᵀ`` (mlx_lm/tuner/lora.py); DoRA's magnitude ``m`` means what PEFT's does (dora.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import AdapterError
from edgekit.safetensors_file import TENSOR_LIMIT

WEIGHTS = "adapters.safetensors"
_PART = re.compile(r"(?P<module>.+)\.(?P<part>lora_a|lora_b|m)")
_ROLES = {"lora_a": "A", "lora_b": "B", "m": "magnitude"}
_LAYER = re.compile(r"(?P<layers>(?:.*\.)?layers)\.(?P<number>\d+)\.(?P<kind>.+)")

TRAINING = {
    "adapter_path", "batch_size", "clear_cache_threshold", "config", "data", "fine_tune_type",
    "grad_accumulation_steps", "grad_checkpoint", "hf_dataset", "iters", "learning_rate", "lora_layers",
    "lora_parameters", "lr_schedule", "mask_prompt", "max_seq_length", "model", "num_layers", "optimizer",
    "optimizer_config", "project_name", "prompt", "report_to", "resume_adapter_file", "save_every", "seed",
    "steps_per_eval", "steps_per_report", "test", "test_batches", "train", "use_dora", "val_batches", "wandb",
}  # fmt: skip
"""What mlx_lm.lora writes down of its command line: options of the training, and those that are read here."""


def is_mlx(config: Mapping[str, Any]) -> bool:
    """Whether an adapter_config.json is of mlx-lm."""
    return "peft_type" not in config and ("lora_parameters" in config or "fine_tune_type" in config)


def role(name: str) -> tuple[str, str | None]:
    """The module and part that a tensor of the file is."""
    match = _PART.fullmatch(name)
    return (match["module"], _ROLES[match["part"]]) if match else ("", None)


def as_peft(config: Mapping[str, Any], path: Path, tensors: Iterable[str]) -> dict[str, Any]:
    """The configuration as PEFT would write it; ``AdapterError`` for what is unknown or not a LoRA."""
    if unknown := [name for name, value in config.items() if name not in TRAINING and value]:
        raise AdapterError(
            "edgekit doesn't know this option; it won't guess what it means for a merge",
            path=path,
            found=f"{unknown[0]} = {str(config[unknown[0]])[:80]}",
        )
    kind = config.get("fine_tune_type", "dora" if config.get("use_dora") is True else "lora")
    if kind not in ("lora", "dora"):
        raise AdapterError(
            "a full fine-tune is no adapter" if kind == "full" else "not an adapter that edgekit merges",
            path=path,
            found=f"fine_tune_type = {str(kind)[:80]}",
            expected="lora or dora",
            next_step="fuse it with mlx_lm.fuse --dequantize, and build from the checkpoint that comes out",
        )
    rank, scale = _strength(config, path)
    modules = {match["module"] for match in map(_PART.fullmatch, tensors) if match}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": scale * rank,
        "use_dora": kind == "dora",
        "base_model_name_or_path": config.get("model"),
        "target_modules": _targets(config, modules, path),
    }


def _strength(config: Mapping[str, Any], path: Path) -> tuple[int, float]:
    """Rank and scale; versions before DoRA multiplied scale by alpha / rank, later ones keep alpha unread."""
    given = config.get("lora_parameters")
    parameters = given if isinstance(given, dict) else {}
    rank, alpha, scale = (parameters.get(name) for name in ("rank", "alpha", "scale"))

    def bad(found: object, expected: str) -> AdapterError:
        return AdapterError("lora_parameters is unsound", path=path, found=str(found)[:80], expected=expected)

    if unknown := set(parameters) - {"rank", "alpha", "scale", "dropout", "keys"}:
        raise bad(", ".join(sorted(unknown)), "rank, scale, alpha, dropout and keys")
    if type(rank) is not int or not 0 < rank < 1 << 20:
        raise bad(f"rank {rank}", "a positive whole number")
    numbers = [value for value in (alpha, scale) if value is not None]
    if not numbers or any(type(n) not in (int, float) or not abs(n) < 1e9 for n in numbers):
        raise bad(given, "a scale")
    if scale is None:
        return rank, float(numbers[0]) / rank
    later = "use_dora" in config or "fine_tune_type" in config
    if alpha is not None and alpha != rank and not later:
        raise bad(
            f"scale {scale} and alpha {alpha}", "one of them: versions of mlx-lm differ in what both mean"
        )
    return rank, float(scale)


def _targets(config: Mapping[str, Any], modules: set[str], path: Path) -> list[str]:
    """Every module that must be there: each kind that one of the adapted layers has, in all of them."""
    number = config.get("num_layers", config.get("lora_layers"))
    found = [match for match in map(_LAYER.fullmatch, modules) if match]
    numbers = [int(match["number"]) for match in found if len(match["number"]) < 6]
    kinds = {(match["layers"], match["kind"]) for match in found}
    if type(number) not in (int, type(None)) or len(numbers) < len(found):
        raise AdapterError(
            "num_layers is unsound", path=path, found=str(number)[:80], expected="a whole number"
        )
    if not found:
        return sorted(modules)
    last = max(numbers)
    first = min(numbers) if number is None else max(0, last + 1 - number) if number > 0 else 0
    if (last + 1 - first) * len(kinds) > TENSOR_LIMIT:
        raise AdapterError("more modules than an adapter can have", path=path, found=f"layers up to {last}")
    every = {f"{layers}.{n}.{kind}" for layers, kind in kinds for n in range(first, last + 1)}
    return sorted(modules | every)
