"""Qwen1.5 and Qwen2 MoE: experts beside one that every token shares, and biases of queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, experts, limits, qwen2
from edgekit.converters.gguf.decoder import Line
from edgekit.converters.gguf.family import Entry, Mapped, unsupported, whole
from edgekit.converters.gguf.presets import Model
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("Qwen2MoeForCausalLM",)
ARCH = "qwen2moe"
IGNORED = qwen2.IGNORED
DEFAULTS = {
    "num_key_value_heads": 16, "max_position_embeddings": 32768, "num_experts": 60, "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "qkv_bias": True,
}  # fmt: skip
"""What transformers' Qwen2MoeConfig has where config.json is silent."""


def check(config: Mapping[str, Any]) -> None:
    config = {**DEFAULTS, **config}
    decoder.check(config, ropes=qwen2.ROPES)
    limits.check_rotation(config)
    limits.check_head_size(config)
    limits.check_flag(config, "norm_topk_prob", "llama.cpp doesn't scale the weights of Qwen2's experts")
    limits.check_flag(config, "use_sliding_window", "a sliding window")
    limits.check_flag(config, "tie_word_embeddings", "llama.cpp's Qwen2 MoE needs an output head of its own")
    experts.check(config)
    experts.check_every_layer(config)
    kinds = config.get("layer_types")
    if kinds is not None and kinds != ["full_attention"] * whole(config, "num_hidden_layers"):
        raise unsupported("layers of another kind", kinds, "full_attention in each")


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = {**DEFAULTS, **config}
    lengths = {
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    }
    return [*decoder.metadata(ARCH, config, llama=False), *experts.metadata(ARCH, config, **lengths)]


def tensors(source: TensorSource) -> list[Mapped]:
    config = {**DEFAULTS, **source.config}
    hidden, shared = whole(config, "hidden_size"), whole(config, "shared_expert_intermediate_size")
    lines = [
        *decoder.norms(config, input_layernorm="attn_norm", post_attention_layernorm="ffn_norm"),
        *decoder.attention(config, bias=bool(config["qkv_bias"]), output_bias=False),
        experts.router(config),
        Line("mlp.shared_expert_gate", "ffn_gate_inp_shexp", (1, hidden), bias=False),
        Line("mlp.shared_expert.gate_proj", "ffn_gate_shexp", (shared, hidden), bias=False),
        Line("mlp.shared_expert.up_proj", "ffn_up_shexp", (shared, hidden), bias=False),
        Line("mlp.shared_expert.down_proj", "ffn_down_shexp", (hidden, shared), bias=False),
    ]
    return [*decoder.decoder(source, lines, config=config), *experts.qwen_stacks(source, config)]


def mixture(config: Mapping[str, Any]) -> Model:
    return experts.mixture({**DEFAULTS, **config})
