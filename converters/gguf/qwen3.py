"""Qwen3, the dense ones: a norm on every head of q and k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, limits, qwen2
from edgekit.converters.gguf.family import Entry, Mapped
from edgekit.converters.gguf.presets import Model
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("Qwen3ForCausalLM",)
ARCH = "qwen3"
IGNORED = qwen2.IGNORED
DEFAULTS = {**qwen2.DEFAULTS, "head_dim": 128}
"""What transformers' Qwen3Config has where config.json is silent."""


def check(config: Mapping[str, Any]) -> None:
    config = {**DEFAULTS, **config}
    decoder.check(config, ropes=qwen2.ROPES)
    limits.check_rotation(config)
    limits.check_flag(config, "attention_bias", "biases on Qwen3's attention")
    qwen2.window(config)


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = {**DEFAULTS, **config}
    return decoder.metadata(ARCH, limits.within(config, qwen2.window(config)), llama=False)


def tensors(source: TensorSource) -> list[Mapped]:
    config = {**DEFAULTS, **source.config}
    lines = [
        *decoder.norms(config, input_layernorm="attn_norm", post_attention_layernorm="ffn_norm"),
        *decoder.attention(config, bias=False, output_bias=False),
        *decoder.head_norms(config),
        *decoder.gated(config, bias=False),
    ]
    return decoder.decoder(source, lines, config=config)


def mixture(config: Mapping[str, Any]) -> Model:
    return decoder.mixture({**DEFAULTS, **config})
