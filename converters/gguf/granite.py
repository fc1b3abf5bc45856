"""Granite 3, the dense ones: Llama's layout with four multipliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, limits, llama
from edgekit.converters.gguf.family import F32, Entry, Mapped, number
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("GraniteForCausalLM",)
ARCH = "granite"
IGNORED = llama.IGNORED
MULTIPLIERS = {
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}
"""config.json's names and GGUF's; 1.0 where config.json is silent."""

mixture = decoder.mixture


def check(config: Mapping[str, Any]) -> None:
    llama.check(config)
    limits.check_head_size(config)
    _scales(config)


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    # llama.cpp's converter ignores head_dim; check() has seen that it says nothing new.
    config = {key: value for key, value in config.items() if key != "head_dim"}
    return [*decoder.metadata(ARCH, config), *_scales(config)]


def tensors(source: TensorSource) -> list[Mapped]:
    return decoder.decoder(source, llama.lines(source.config))


def _scales(config: Mapping[str, Any]) -> list[Entry]:
    return [Entry(f"{ARCH}.{short}", number(config, key, 1.0), F32) for key, short in MULTIPLIERS.items()]
