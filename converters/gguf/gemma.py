"""Gemma 1, and what later Gemmas share with it: norms that scale by weight + 1, heads apart from the hidden size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, settings
from edgekit.converters.gguf.family import Entry, Mapped, number, unsupported, whole
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("GemmaForCausalLM",)
ARCH = "gemma"
IGNORED: Sequence[str] = (".rotary_emb.inv_freq",)

DEFAULTS = {
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
ACTIVATION = "gelu_pytorch_tanh"
NOT_WRITTEN = ("rope.freq_base", "vocab_size", "rope.dimension_count")
"""Keys of other decoders: Gemma 1 and 2 rotate whole heads at llama.cpp's default base."""

mixture = decoder.mixture


def check(config: Mapping[str, Any]) -> None:
    config = settings.completed(config, DEFAULTS)
    check_shared(config)
    check_fixed_head(config)


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    return settings.trimmed(ARCH, settings.completed(config, DEFAULTS), *NOT_WRITTEN)


def tensors(source: TensorSource) -> list[Mapped]:
    config = settings.completed(source.config, DEFAULTS)
    lines = [
        *decoder.norms(
            config, decoder.plus_one, input_layernorm="attn_norm", post_attention_layernorm="ffn_norm"
        ),
        *decoder.attention(config),
        *decoder.gated(config),
    ]
    return mapped(without_head(source), lines, config)


def mapped(source: TensorSource, lines: Sequence[decoder.Line], config: Mapping[str, Any]) -> list[Mapped]:
    """A Gemma's tensors, which have no biases."""
    return settings.biased(decoder.decoder(source, lines, decoder.plus_one, config))


def without_head(source: TensorSource) -> TensorSource:
    """The source, if it stores no head: llama.cpp computes Gemma 1's and 2's from the embedding only."""
    if "lm_head.weight" in source.names():
        raise unsupported("a head apart from the embedding", "lm_head.weight", "a checkpoint without it")
    return source


def check_shared(config: Mapping[str, Any], ropes: Sequence[str] = ("default",)) -> None:
    """What is refused of every Gemma."""
    for key in ("hidden_act", "hidden_activation"):
        # The first releases say "gelu" and mean its approximation; transformers corrects that too.
        if config.get(key, ACTIVATION) not in (ACTIVATION, "gelu"):
            raise unsupported("another activation than the family's", config[key], ACTIVATION)
    if config.get("hidden_activation") == "gelu":
        raise unsupported("another activation than the family's", "gelu", ACTIVATION)
    settings.fixed(config, attention_bias=False, use_bidirectional_attention=False, is_causal=True)
    decoder.check({**config, "hidden_act": ACTIVATION}, ACTIVATION, ropes)


def check_fixed_head(config: Mapping[str, Any]) -> None:
    """What llama.cpp has built into Gemma 1 and 2: the rotation's base, and a head that is the embedding."""
    settings.usual_base(config)
    settings.fixed(config, tie_word_embeddings=True)


def check_scale(config: Mapping[str, Any], large: int) -> None:
    """llama.cpp derives what queries are scaled by: from the heads' size, but in 27B models, which it knows by layers."""
    expected = decoder.head_dim(config)
    if whole(config, "num_hidden_layers") == large:
        expected = whole(config, "hidden_size") // whole(config, "num_attention_heads")
    found = number(config, "query_pre_attn_scalar", 256)
    if found != expected:
        raise unsupported(
            "queries are scaled otherwise than llama.cpp does", found, f"query_pre_attn_scalar {expected}"
        )
