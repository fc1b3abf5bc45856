"""LFM2: short convolutions in most layers, attention with norms of queries and keys in the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgekit.converters.gguf import decoder, hybrid, limits, qwen2, settings
from edgekit.converters.gguf.decoder import Line
from edgekit.converters.gguf.family import U32, Entry, Mapped, expect, number, unsupported, whole
from edgekit.converters.gguf.presets import Model
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("Lfm2ForCausalLM",)
ARCH = "lfm2"
IGNORED: Sequence[str] = (".rotary_emb.inv_freq",)
DEFAULTS = {
    "num_key_value_heads": 8, "max_position_embeddings": 128_000, "rope_theta": 1e6, "intermediate_size": 12_288,
    "norm_eps": 1e-5, "conv_L_cache": 3, "block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True, "tie_word_embeddings": True,
}  # fmt: skip
"""What transformers' Lfm2Config has where config.json is silent."""
OLD_NAMES = {"block_ff_dim": "intermediate_size", "tie_embedding": "tie_word_embeddings"}
"""The first checkpoints' names, which transformers prefers."""


def check(config: Mapping[str, Any]) -> None:
    config = _filled(config)
    decoder.check(config, ropes=qwen2.ROPES)
    limits.check_rotation(config)
    limits.check_head_size(config)
    limits.check_flag(config, "conv_bias", "biases on LFM2's convolutions")
    if whole(config, "conv_L_cache") < 2:
        raise unsupported("a convolution over one token", config["conv_L_cache"], "conv_L_cache above 1")
    _kinds(config)


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = _filled(config)
    heads = [config["num_key_value_heads"] if kind != "conv" else 0 for kind in _kinds(config)]
    return [
        *settings.varied(
            ARCH, decoder.metadata(ARCH, config, llama=False), {"attention.head_count_kv": heads}
        ),
        Entry(f"{ARCH}.vocab_size", whole(config, "vocab_size"), U32),
        Entry(f"{ARCH}.shortconv.l_cache", whole(config, "conv_L_cache"), U32),
    ]


def tensors(source: TensorSource) -> list[Mapped]:
    config = _filled(source.config)
    shape = whole(config, "hidden_size"), whole(config, "conv_L_cache")

    def convolution(prefix: str, gguf_prefix: str) -> list[Mapped]:
        name = f"{prefix}conv.conv.weight"
        expect(source, name, (shape[0], 1, shape[1]))
        return [Mapped(f"{gguf_prefix}shortconv.conv.weight", shape, name)]

    # llama.cpp's name of the last norm is a mistake that it keeps.
    norm = Line("model.embedding_norm", "token_embd_norm", shape[:1], bias=False)
    lines = {"conv": _convolution(config), "full_attention": _attention(config)}
    return hybrid.tensors(source, config, norm, _kinds(config), lines, convolution)


def mixture(config: Mapping[str, Any]) -> Model:
    config = _filled(config)
    model = decoder.mixture(config)
    return replace(model, kv_heads=0) if _kinds(config)[0] == "conv" else model


def _feed_forward(config: Mapping[str, Any]) -> list[Line]:
    hidden, ffn = whole(config, "hidden_size"), whole(config, "intermediate_size")
    return [
        *decoder.norms(config, operator_norm="attn_norm", ffn_norm="ffn_norm"),
        Line("feed_forward.w1", "ffn_gate", (ffn, hidden), bias=False),
        Line("feed_forward.w3", "ffn_up", (ffn, hidden), bias=False),
        Line("feed_forward.w2", "ffn_down", (hidden, ffn), bias=False),
    ]


def _convolution(config: Mapping[str, Any]) -> list[Line]:
    hidden = whole(config, "hidden_size")
    return [
        *_feed_forward(config),
        Line("conv.in_proj", "shortconv.in_proj", (3 * hidden, hidden), bias=False),
        Line("conv.out_proj", "shortconv.out_proj", (hidden, hidden), bias=False),
    ]


def _attention(config: Mapping[str, Any]) -> list[Line]:
    *projections, output = decoder.attention(config, bias=False, output_bias=False)
    return [
        *_feed_forward(config),
        *projections,
        replace(output, module="self_attn.out_proj"),
        *decoder.head_norms(config, bias=False, suffix="layernorm"),
    ]


def _filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config by its newer names, with the feed-forward's real size."""
    filled = {**DEFAULTS, **config}
    filled |= {name: config[old] for old, name in OLD_NAMES.items() if config.get(old) is not None}
    full = filled.get("full_attn_idxs")
    if filled.get("layer_types") is None and isinstance(full, list):
        layers = range(whole(filled, "num_hidden_layers"))
        filled["layer_types"] = ["full_attention" if i in full else "conv" for i in layers]
    filled["rms_norm_eps"] = number(filled, "norm_eps", 1e-5)
    if filled["block_auto_adjust_ff_dim"]:
        size = int(2 * whole(filled, "intermediate_size") / 3)
        size = int(number(filled, "block_ffn_dim_multiplier", 1.0) * size)
        step = whole(filled, "block_multiple_of")
        filled["intermediate_size"] = -(-size // step) * step
    return filled


def _kinds(config: Mapping[str, Any]) -> list[str]:
    return hybrid.kinds(config, "conv", "full_attention")
