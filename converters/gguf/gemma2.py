"""Gemma 2: soft caps, every other layer with a sliding window, norms after attention and feed-forward too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, gemma, settings, turns
from edgekit.converters.gguf.family import F32, U32, Entry, Mapped, number, whole
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("Gemma2ForCausalLM",)
ARCH = "gemma2"
IGNORED: Sequence[str] = gemma.IGNORED

DEFAULTS = {**gemma.DEFAULTS, "sliding_window": 4096}
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
LARGE = 46
"""Layers of the 27B model."""
NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}

mixture = decoder.mixture


def check(config: Mapping[str, Any]) -> None:
    for cap in CAPS:
        number(config, cap, math.nan)  # A config that turns caps off says null; llama.cpp always has them.
    config = settings.completed(config, DEFAULTS)
    gemma.check_shared(config)
    gemma.check_fixed_head(config)
    gemma.check_scale(config, LARGE)
    turns.check_order(config, turns.pattern(config, 2))


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = settings.completed(config, DEFAULTS)
    return [
        *settings.trimmed(ARCH, config, *gemma.NOT_WRITTEN),
        Entry(f"{ARCH}.attn_logit_softcapping", number(config, CAPS[0], math.nan), F32),
        Entry(f"{ARCH}.final_logit_softcapping", number(config, CAPS[1], math.nan), F32),
        Entry(f"{ARCH}.attention.sliding_window", whole(config, "sliding_window"), U32),
    ]


def tensors(source: TensorSource) -> list[Mapped]:
    config = settings.completed(source.config, DEFAULTS)
    lines = [
        *decoder.norms(config, decoder.plus_one, **NORMS),
        *decoder.attention(config),
        *decoder.gated(config),
    ]
    return gemma.mapped(gemma.without_head(source), lines, config)
