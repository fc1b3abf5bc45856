"""Qwen2 and Qwen2.5: biases on q, k and v."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, limits
from edgekit.converters.gguf.family import Entry, Mapped, unsupported, whole
from edgekit.converters.gguf.presets import Model
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("Qwen2ForCausalLM",)
ARCH = "qwen2"
IGNORED: Sequence[str] = (".rotary_emb.inv_freq",)
DEFAULTS = {"num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096}
"""What transformers' Qwen2Config has where config.json is silent."""
KINDS = {"full_attention", "sliding_attention"}
ROPES = ("default", "linear", "yarn")


def check(config: Mapping[str, Any]) -> None:
    config = {**DEFAULTS, **config}
    decoder.check(config, ropes=ROPES)
    limits.check_rotation(config)
    limits.check_head_size(config)
    window(config)


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = {**DEFAULTS, **config}
    return decoder.metadata(ARCH, limits.within(config, window(config)), llama=False)


def tensors(source: TensorSource) -> list[Mapped]:
    config = {**DEFAULTS, **source.config}
    lines = [
        *decoder.norms(config, input_layernorm="attn_norm", post_attention_layernorm="ffn_norm"),
        *decoder.attention(config, bias=True, output_bias=False),
        *decoder.gated(config, bias=False),
    ]
    return decoder.decoder(source, lines, config=config)


def mixture(config: Mapping[str, Any]) -> Model:
    return decoder.mixture({**DEFAULTS, **config})


def window(config: Mapping[str, Any]) -> int | None:
    """The length of the sliding window, where any layer has one; llama.cpp's graphs of Qwen have none."""
    count, kinds = whole(config, "num_hidden_layers"), config.get("layer_types")
    slides = config.get("use_sliding_window") and config.get("sliding_window") is not None
    if kinds is None:
        full = whole(config, "max_window_layers", 28) if config.get("max_window_layers") != 0 else 0
        return whole(config, "sliding_window") if slides and full < count else None
    if kinds == ["full_attention"] * count:
        return None
    if not slides or not isinstance(kinds, list) or not {*map(str, kinds)} <= KINDS:
        raise unsupported("layers of another kind", kinds, "full_attention, or a sliding_window in use")
    return whole(config, "sliding_window")
