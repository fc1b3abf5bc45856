"""Llama 2, 3, 3.1, 3.2 and what shares their layout: TinyLlama, SmolLM2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, limits
from edgekit.converters.gguf.family import Entry, Mapped
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("LlamaForCausalLM",)
ARCH = "llama"
IGNORED: Sequence[str] = (".rotary_emb.inv_freq",)

mixture = decoder.mixture


def check(config: Mapping[str, Any]) -> None:
    decoder.check(config, ropes=(*decoder.ROPES, "yarn"))
    limits.check_rotation(config)


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    return decoder.metadata(ARCH, with_head_dim(config))


def tensors(source: TensorSource) -> list[Mapped]:
    return decoder.decoder(source, lines(source.config))


def with_head_dim(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config with its head size spelled out, as transformers fills it in and llama.cpp's converter sees it."""
    return {**config, "head_dim": decoder.head_dim(config)}


def lines(config: Mapping[str, Any]) -> list[decoder.Line]:
    """The table of a layer."""
    bias, mlp_bias = config.get("attention_bias") is True, config.get("mlp_bias") is True
    return [
        *decoder.norms(config, input_layernorm="attn_norm", post_attention_layernorm="ffn_norm"),
        *decoder.attention(config, rotated=True, bias=bias, output_bias=bias),
        *decoder.gated(config, bias=mlp_bias),
    ]
