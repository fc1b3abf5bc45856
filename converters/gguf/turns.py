"""Layers that take turns: most see a window of the last tokens, the others everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf.family import unsupported, whole
from edgekit.errors import InputError

LOCAL, FULL = "sliding_attention", "full_attention"


def pattern(config: Mapping[str, Any], every: int) -> list[str]:
    """The kind of each layer, where every so many-th sees everything."""
    layers = range(whole(config, "num_hidden_layers"))
    return [LOCAL if (layer + 1) % every else FULL for layer in layers]


def check_order(config: Mapping[str, Any], expected: Sequence[str]) -> None:
    """Refuse another order of the layers than llama.cpp has built in."""
    found = config.get("layer_types", expected)
    if found != expected:
        raise unsupported("layers take turns otherwise than in llama.cpp", found, ", ".join(expected))


def rotations(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``rope_parameters`` by kind of layer, empty where nothing is said of one."""
    blocks = config.get("rope_parameters", {})
    if not isinstance(blocks, dict) or not set(blocks) <= {LOCAL, FULL}:
        raise unsupported("rope_parameters aren't by kind of layer", blocks, f"{FULL} and {LOCAL}")
    found = {kind: blocks.get(kind) or {} for kind in (LOCAL, FULL)}
    if not all(isinstance(block, dict) for block in found.values()):
        raise InputError("config.json's rope_parameters are unsound", found=blocks, expected="objects")
    return found


def check_scaling(blocks: Mapping[str, Mapping[str, Any]], kind: str, rope: str) -> None:
    """Refuse another type of rotation in one kind of layer."""
    found = blocks[kind].get("rope_type", "default")
    if found != rope:
        raise unsupported(f"a rope scaling in {kind} layers", found, rope)
