"""Qwen3 MoE: norms of queries and keys, and many small experts in every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, experts, limits, qwen2
from edgekit.converters.gguf.family import Entry, Mapped, unsupported
from edgekit.converters.gguf.presets import Model
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("Qwen3MoeForCausalLM",)
ARCH = "qwen3moe"
IGNORED = qwen2.IGNORED
DEFAULTS = {
    "num_key_value_heads": 4, "max_position_embeddings": 32768, "num_experts_per_tok": 8, "moe_intermediate_size": 768
}  # fmt: skip
"""What transformers' Qwen3MoeConfig has where config.json is silent."""


def check(config: Mapping[str, Any]) -> None:
    config = {**DEFAULTS, **config}
    decoder.check(config, ropes=qwen2.ROPES)
    limits.check_rotation(config)
    limits.check_flag(config, "attention_bias", "biases on Qwen3's attention")
    limits.check_flag(config, "use_sliding_window", "a sliding window")
    experts.check(config)
    experts.check_every_layer(config)
    if config.get("norm_topk_prob") is not True:
        raise unsupported(
            "llama.cpp gives Qwen3's experts weights of sum 1", config.get("norm_topk_prob"), "true"
        )


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = {**DEFAULTS, **config}
    lengths = {"expert_feed_forward_length": "moe_intermediate_size"}
    return [*decoder.metadata(ARCH, config, llama=False), *experts.metadata(ARCH, config, **lengths)]


def tensors(source: TensorSource) -> list[Mapped]:
    config = {**DEFAULTS, **source.config}
    lines = [
        *decoder.norms(config, input_layernorm="attn_norm", post_attention_layernorm="ffn_norm"),
        *decoder.attention(config, bias=False, output_bias=False),
        *decoder.head_norms(config),
        experts.router(config),
    ]
    return [*decoder.decoder(source, lines, config=config), *experts.qwen_stacks(source, config)]


def mixture(config: Mapping[str, Any]) -> Model:
    return experts.mixture({**DEFAULTS, **config})
