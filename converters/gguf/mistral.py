"""Mistral 7B and Nemo: Llama's layout; v0.1 has a sliding window, which llama.cpp's graph hasn't."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, limits, llama
from edgekit.converters.gguf.family import Entry, Mapped
from edgekit.converters.gguf.presets import Model
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("MistralForCausalLM",)
ARCH = "llama"
IGNORED = llama.IGNORED
DEFAULTS = {"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072}
"""What transformers' MistralConfig has where config.json is silent."""


def check(config: Mapping[str, Any]) -> None:
    config = _filled(config)
    llama.check(config)
    limits.window(config)


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = llama.with_head_dim(_filled(config))
    return decoder.metadata(ARCH, limits.within(config, limits.window(config)))


def tensors(source: TensorSource) -> list[Mapped]:
    config = _filled(source.config)
    return decoder.decoder(source, llama.lines(config), config=config)


def mixture(config: Mapping[str, Any]) -> Model:
    return decoder.mixture(_filled(config))


def _filled(config: Mapping[str, Any]) -> Mapping[str, Any]:
    # transformers' Mistral has no biases, whatever the config says.
    return {**DEFAULTS, **config, "attention_bias": False, "mlp_bias": False}
