"""Mixtral: Llama with a mixture of experts for its feed-forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, experts, limits
from edgekit.converters.gguf.family import Entry, Mapped, whole
from edgekit.converters.gguf.presets import Model
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("MixtralForCausalLM",)
ARCH = "llama"
IGNORED: Sequence[str] = (".rotary_emb.inv_freq",)
DEFAULTS = {
    "num_key_value_heads": 8, "max_position_embeddings": 131_072, "rope_theta": 1e6, "rms_norm_eps": 1e-5,
    "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
"""What transformers' MixtralConfig has where config.json is silent."""
EXPERTS = {"gate": "w1", "up": "w3", "down": "w2"}


def check(config: Mapping[str, Any]) -> None:
    config = {**DEFAULTS, **config}
    decoder.check(config)
    limits.check_rotation(config)
    experts.check(config)
    limits.window(config)


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = {**DEFAULTS, **config}
    within = limits.within(config, limits.window(config))
    return [*decoder.metadata(ARCH, within), *experts.metadata(ARCH, config)]


def tensors(source: TensorSource) -> list[Mapped]:
    config = {**DEFAULTS, **source.config}
    block = (
        "block_sparse_moe" if decoder.has(source, "model.layers.0.block_sparse_moe.gate.weight") else "mlp"
    )
    lines = [
        *decoder.norms(config, input_layernorm="attn_norm", post_attention_layernorm="ffn_norm"),
        *decoder.attention(config, rotated=True, bias=False, output_bias=False),
        experts.router(config, f"{block}.gate"),
    ]
    stacks = experts.stacks(source, config, f"{block}.experts", EXPERTS, whole(config, "intermediate_size"))
    return [*decoder.decoder(source, lines, config=config), *stacks]


def mixture(config: Mapping[str, Any]) -> Model:
    return experts.mixture({**DEFAULTS, **config})
