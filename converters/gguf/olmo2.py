"""OLMo 2: norms behind attention and feed-forward, and on all heads of q and k at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, limits, qwen2
from edgekit.converters.gguf.decoder import Line
from edgekit.converters.gguf.family import Entry, Mapped
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("Olmo2ForCausalLM",)
ARCH = "olmo2"
IGNORED: Sequence[str] = (".rotary_emb.inv_freq",)
DEFAULTS = {"rms_norm_eps": 1e-5}
"""What transformers' Olmo2Config has where config.json is silent."""

mixture = decoder.mixture


def check(config: Mapping[str, Any]) -> None:
    decoder.check(config, ropes=qwen2.ROPES)
    limits.check_rotation(config)
    limits.check_head_size(config)
    limits.check_flag(config, "attention_bias", "biases on OLMo 2's attention")
    # llama.cpp's loader demands an output matrix of its own.
    limits.check_flag(config, "tie_word_embeddings", "OLMo 2 with tied embeddings")


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    return decoder.metadata(ARCH, {**DEFAULTS, **config}, llama=False)


def tensors(source: TensorSource) -> list[Mapped]:
    config = source.config
    size, (count, shared) = decoder.head_dim(config), decoder.heads(config)
    lines = [
        *decoder.attention(config, bias=False, output_bias=False),
        Line("self_attn.q_norm", "attn_q_norm", (count * size,)),
        Line("self_attn.k_norm", "attn_k_norm", (shared * size,)),
        *decoder.norms(
            config, post_attention_layernorm="post_attention_norm", post_feedforward_layernorm="post_ffw_norm"
        ),
        *decoder.gated(config, bias=False),
    ]
    return decoder.decoder(source, lines)
