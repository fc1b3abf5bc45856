"""Gemma 3's text models: query and key norms, and two rotations, one for the layers with a sliding window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, gemma, gemma2, settings, turns
from edgekit.converters.gguf.family import F32, U32, Entry, Mapped, number, unsupported, whole
from edgekit.converters.gguf.turns import FULL, LOCAL
from edgekit.errors import InputError
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("Gemma3ForCausalLM",)
ARCH = "gemma3"
IGNORED: Sequence[str] = gemma.IGNORED

DEFAULTS = {**gemma.DEFAULTS, "max_position_embeddings": 131_072, "sliding_window": 4096}
LARGE = 62
"""Layers of the 27B model."""
PATTERN = 6
"""Every sixth layer sees everything."""

mixture = decoder.mixture


def check(config: Mapping[str, Any]) -> None:
    config = _plain(config)
    gemma.check_shared(config, ("default", "linear"))
    gemma.check_scale(config, LARGE)
    if config.get("attn_logit_softcapping") is not None:
        raise unsupported("Gemma 3 has no cap on attention", config["attn_logit_softcapping"], "null")
    if _windowed(config):
        turns.check_order({"layer_types": _layers(config)}, turns.pattern(config, PATTERN))


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = _plain(config)
    entries = settings.trimmed(ARCH, config, "vocab_size", "rope.dimension_count")
    if config.get("final_logit_softcapping") is not None:
        cap = number(config, "final_logit_softcapping", 30.0)
        entries.append(Entry(f"{ARCH}.final_logit_softcapping", cap, F32))
    if _windowed(config):
        entries.append(Entry(f"{ARCH}.rope.freq_base_swa", config["rope_local_base_freq"], F32))
        entries.append(Entry(f"{ARCH}.attention.sliding_window", whole(config, "sliding_window"), U32))
    return entries


def tensors(source: TensorSource) -> list[Mapped]:
    config = _plain(source.config)
    lines = [
        *decoder.norms(config, decoder.plus_one, **gemma2.NORMS),
        *decoder.attention(config),
        *decoder.head_norms(config, decoder.plus_one),
        *decoder.gated(config),
    ]
    return gemma.mapped(source, lines, config)


def _windowed(config: Mapping[str, Any]) -> bool:
    """Whether any layer has a window."""
    return any(kind != FULL for kind in _layers(config))


def _layers(config: Mapping[str, Any]) -> list[str]:
    """What each layer sees, which older configs say by the number of layers from one that sees everything on."""
    kinds = config.get("layer_types", turns.pattern(config, whole(config, "sliding_window_pattern", PATTERN)))
    if not isinstance(kinds, list):
        raise InputError("config.json's layer_types are unsound", found=kinds, expected="a list")
    return kinds


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the rotation of full layers where one rotation is put, and the other's base beside it."""
    config = settings.completed(config, DEFAULTS)
    blocks, scaling = turns.rotations(config), config.get("rope_scaling", {})
    full, local = blocks[FULL], blocks[LOCAL]
    if not isinstance(scaling, dict):
        raise InputError("config.json's rope_scaling is unsound", found=scaling, expected="an object")
    turns.check_scaling(blocks, LOCAL, "default")
    config.pop("rope_parameters", None)
    base = config.get("rope_local_base_freq", 10_000.0)
    return {
        **config,
        "rope_scaling": {"rope_theta": config.get("rope_theta", 1_000_000.0), **full, **scaling},
        "rope_local_base_freq": number({"rope_theta": local.get("rope_theta", base)}, "rope_theta", 10_000.0),
    }
