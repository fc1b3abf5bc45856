"""Phi-3, Phi-3.5-mini, Phi-4-mini and Phi-4: fused projections, and LongRoPE's two sets of rotation factors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.converters.gguf import decoder, limits, settings
from edgekit.converters.gguf.decoder import Line
from edgekit.converters.gguf.family import F32, U32, Entry, Mapped, number, unsupported, whole
from edgekit.converters.gguf.rope import rope
from edgekit.errors import InputError
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("Phi3ForCausalLM",)
ARCH = "phi3"
IGNORED: Sequence[str] = (".rotary_emb.inv_freq",)

ORIGINAL = "original_max_position_embeddings"
DEFAULTS = {"max_position_embeddings": 4096, ORIGINAL: 4096, "rms_norm_eps": 1e-5}
LONG = ("longrope", "su")
"""LongRoPE, and what the first releases called it."""
FACTORS = ("long_factor", "short_factor")
KNOWN = {
    *FACTORS, "rope_type", "type", "rope_theta", "factor", "attention_factor", "partial_rotary_factor",
    ORIGINAL,
}  # fmt: skip
NOT_WRITTEN = (
    "context_length", "vocab_size", "rope.dimension_count", "attention.key_length", "attention.value_length"
)  # fmt: skip

mixture = decoder.mixture


def check(config: Mapping[str, Any]) -> None:
    if config.get(ORIGINAL) is not None:
        settings.fixed(rope(config), **{ORIGINAL: config[ORIGINAL]})
    config = settings.completed(config, DEFAULTS)
    limits.check_head_size(config)
    settings.fixed(config, is_causal=True)
    decoder.check(config, ropes=("default", *LONG))
    scaling = rope(config)
    if unknown := sorted(set(scaling) - KNOWN):
        raise unsupported("a rope scaling with keys that aren't understood", ", ".join(unknown), "LongRoPE's")
    if scaling.get("rope_type", "default") == "default" and any(key in scaling for key in FACTORS):
        raise unsupported("rotation factors without a rope scaling that has them", "default", LONG[0])
    _factors(config)


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = settings.completed(config, DEFAULTS)
    context, window = whole(config, "max_position_embeddings"), config.get("sliding_window")
    entries = [
        # llama.cpp doesn't apply the window, so that answers are the model's own within one window only.
        Entry(f"{ARCH}.context_length", min(context, whole(config, "sliding_window", context)), U32),
        Entry(f"{ARCH}.rope.scaling.original_context_length", _original(config), U32),
        *settings.trimmed(ARCH, config, *NOT_WRITTEN),
        Entry(f"{ARCH}.rope.dimension_count", settings.rotated_size(config, 1.0), U32),
        Entry(f"{ARCH}.attention.sliding_window", window or 0, U32),
    ]
    if _factors(config):
        entries.append(Entry(f"{ARCH}.rope.scaling.attn_factor", _attention_factor(config), F32))
    return entries


def tensors(source: TensorSource) -> list[Mapped]:
    config = settings.completed(source.config, DEFAULTS)
    hidden, ffn, size = (
        whole(config, "hidden_size"),
        whole(config, "intermediate_size"),
        decoder.head_dim(config),
    )
    count, shared = decoder.heads(config)
    lines = [
        *decoder.norms(config, input_layernorm="attn_norm", post_attention_layernorm="ffn_norm"),
        Line("self_attn.qkv_proj", "attn_qkv", ((count + 2 * shared) * size, hidden)),
        Line("self_attn.o_proj", "attn_output", (hidden, count * size)),
        Line("mlp.gate_up_proj", "ffn_up", (2 * ffn, hidden)),
        Line("mlp.down_proj", "ffn_down", (hidden, ffn)),
    ]
    out = settings.biased(decoder.decoder(source, lines))
    for key, values in _factors(config).items():
        kind = key.removesuffix("_factor")
        out.append(Mapped(f"rope_factors_{kind}.weight", (len(values),), values=np.array(values, np.float32)))
    return out


def _original(config: Mapping[str, Any]) -> int:
    """The context that the model was trained with before it was stretched."""
    return whole(rope(config), ORIGINAL, whole(config, ORIGINAL))


def _factors(config: Mapping[str, Any]) -> dict[str, list[float]]:
    """LongRoPE's divisors of each rotation frequency by their name; none for a model without."""
    scaling, size = rope(config), settings.rotated_size(config, 1.0)
    if scaling.get("rope_type") not in LONG:
        return {}
    for key in FACTORS:
        values = scaling.get(key)
        if not isinstance(values, list) or len(values) != size // 2:
            raise InputError(f"config.json's {key} is unsound", found=values, expected=f"{size // 2} numbers")
        for value in values:
            number({key: value}, key, math.nan)
    return {key: scaling[key] for key in FACTORS}


def _attention_factor(config: Mapping[str, Any]) -> float:
    """What LongRoPE scales attention by (transformers' _compute_longrope_parameters)."""
    scaling, original = rope(config), _original(config)
    stretched = number(scaling, "factor", whole(config, "max_position_embeddings") / original)
    usual = math.sqrt(1 + math.log(stretched) / math.log(original)) if stretched > 1 else 1.0
    return number(scaling, "attention_factor", usual)
