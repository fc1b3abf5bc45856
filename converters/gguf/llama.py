"""Llama 2, 3, 3.1, 3.2 and what shares their layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder
from edgekit.converters.gguf.family import Entry, Mapped
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("LlamaForCausalLM",)
ARCH = "llama"
IGNORED: Sequence[str] = (".rotary_emb.inv_freq",)

check = decoder.check
mixture = decoder.mixture


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    return decoder.metadata(ARCH, config)


def tensors(source: TensorSource) -> list[Mapped]:
    config = source.config
    lines = [
        *decoder.norms(config, input_layernorm="attn_norm", post_attention_layernorm="ffn_norm"),
        *decoder.attention(config, rotated=True),
        *decoder.gated(config),
    ]
    return decoder.decoder(source, lines)
