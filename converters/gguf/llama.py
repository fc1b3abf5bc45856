"""Llama 2, 3, 3.1, 3.2 and what shares their layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.converters.gguf.family import F32, STRING, U32, Entry, Mapped, expect, number, unsupported, whole
from edgekit.converters.gguf.presets import Model
from edgekit.errors import InputError
from edgekit.tensors import Float32, TensorSource

ARCHITECTURES: Sequence[str] = ("LlamaForCausalLM",)
ARCH = "llama"
IGNORED: Sequence[str] = (".rotary_emb.inv_freq",)

_ROPE_NEEDS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def check(config: Mapping[str, Any]) -> None:
    if config.get("hidden_act", "silu") != "silu":
        raise unsupported("another activation than Llama's", config["hidden_act"], "silu")
    scaling = rope(config)
    kind = scaling.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        raise unsupported("a rope scaling that isn't converted yet", kind, "default, linear or llama3")
    for key in _ROPE_NEEDS.get(kind, ()):
        number(scaling, key, math.nan)
    heads, kv_heads = _heads(config)
    if heads % kv_heads:
        raise unsupported("heads don't share key-value heads evenly", f"{heads} and {kv_heads}", "a multiple")
    if _head_dim(config) % 2:
        raise unsupported("an odd head size can't be rotated", _head_dim(config), "an even number")


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    heads, kv_heads = _heads(config)
    entries = [
        Entry("llama.block_count", whole(config, "num_hidden_layers"), U32),
        Entry("llama.context_length", whole(config, "max_position_embeddings", 2048), U32),
        Entry("llama.embedding_length", whole(config, "hidden_size"), U32),
        Entry("llama.feed_forward_length", whole(config, "intermediate_size"), U32),
        Entry("llama.attention.head_count", heads, U32),
        Entry("llama.attention.head_count_kv", kv_heads, U32),
    ]
    scaling = rope(config)
    if scaling.get("rope_type") == "linear":
        entries.append(Entry("llama.rope.scaling.type", "linear", STRING))
        entries.append(Entry("llama.rope.scaling.factor", number(scaling, "factor", 1.0), F32))
    return [
        *entries,
        Entry("llama.rope.freq_base", number(scaling, "rope_theta", 10_000.0), F32),
        Entry("llama.attention.layer_norm_rms_epsilon", number(config, "rms_norm_eps", 1e-6), F32),
        Entry("llama.attention.key_length", _head_dim(config), U32),
        Entry("llama.attention.value_length", _head_dim(config), U32),
        Entry("llama.vocab_size", whole(config, "vocab_size"), U32),
        Entry("llama.rope.dimension_count", _head_dim(config), U32),
    ]


def tensors(source: TensorSource) -> list[Mapped]:
    config = source.config
    hidden, vocab = whole(config, "hidden_size"), whole(config, "vocab_size")
    out = [
        _plain(source, "model.embed_tokens.weight", "token_embd.weight", (vocab, hidden)),
        _plain(source, "model.norm.weight", "output_norm.weight", (hidden,)),
    ]
    tied = config.get("tie_word_embeddings", False)
    if tied is not True or "lm_head.weight" in source.names():
        out.append(_plain(source, "lm_head.weight", "output.weight", (vocab, hidden)))
    for layer in range(whole(config, "num_hidden_layers")):
        out += _layer(source, layer)
    scaling = rope(config)
    if scaling.get("rope_type") == "llama3":
        factors = llama3_factors(scaling, _head_dim(config))
        out.append(Mapped("rope_freqs.weight", factors.shape, values=factors))
    return out


def mixture(config: Mapping[str, Any]) -> Model:
    return Model(whole(config, "num_hidden_layers"), *_heads(config))


def _heads(config: Mapping[str, Any]) -> tuple[int, int]:
    heads = whole(config, "num_attention_heads")
    return heads, whole(config, "num_key_value_heads", heads)


def _head_dim(config: Mapping[str, Any]) -> int:
    return whole(config, "head_dim", whole(config, "hidden_size") // whole(config, "num_attention_heads"))


def _plain(source: TensorSource, name: str, gguf_name: str, shape: tuple[int, ...]) -> Mapped:
    return Mapped(gguf_name, expect(source, name, shape), name)


def _layer(source: TensorSource, layer: int) -> list[Mapped]:
    config = source.config
    hidden, ffn, head_dim = (
        whole(config, "hidden_size"),
        whole(config, "intermediate_size"),
        _head_dim(config),
    )
    heads, kv_heads = _heads(config)
    shapes = {
        "attn_norm": (hidden,),
        "attn_q": (heads * head_dim, hidden),
        "attn_k": (kv_heads * head_dim, hidden),
        "attn_v": (kv_heads * head_dim, hidden),
        "attn_output": (hidden, heads * head_dim),
        "ffn_norm": (hidden,),
        "ffn_gate": (ffn, hidden),
        "ffn_up": (ffn, hidden),
        "ffn_down": (hidden, ffn),
    }
    out = []
    for module, short in _LAYER.items():
        rotated = short in {"attn_q", "attn_k"}
        unit, transform = (head_dim, _interleave(head_dim)) if rotated else (1, None)
        for parameter in ("weight", "bias"):
            name = f"model.layers.{layer}.{module}.{parameter}"
            if parameter == "weight" or name in source.names():
                shape = shapes[short] if parameter == "weight" else shapes[short][:1]
                expect(source, name, shape)
                out.append(Mapped(f"blk.{layer}.{short}.{parameter}", shape, name, unit, transform))
    return out


class _interleave:
    """Rows of whole heads from transformers' rotate-half order to the interleaved pairs that llama.cpp rotates."""

    def __init__(self, head_dim: int) -> None:
        self.head_dim = head_dim

    def __call__(self, rows: Float32) -> Float32:
        heads = rows.reshape(-1, 2, self.head_dim // 2, *rows.shape[1:])
        return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


def rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rope parameters as transformers 5 writes them, from either of the two ways configs put them."""
    merged = {"rope_theta": config.get("rope_theta", 10_000.0)}
    for key in ("rope_scaling", "rope_parameters"):
        block = config.get(key) or {}
        if not isinstance(block, dict):
            raise InputError(f"config.json's {key} is unsound", found=block, expected="an object")
        merged.update(block)
    if "rope_type" not in merged and "type" in merged:
        merged["rope_type"] = merged["type"]
    return merged


def llama3_factors(scaling: Mapping[str, Any], head_dim: int) -> Float32:
    """Llama 3.1's divisors of each rotation frequency (transformers' _compute_llama3_parameters)."""
    base = np.float32(number(scaling, "rope_theta", 10_000.0))
    low, high = number(scaling, "low_freq_factor", 1.0), number(scaling, "high_freq_factor", 4.0)
    factor, context = (
        number(scaling, "factor", 8.0),
        number(scaling, "original_max_position_embeddings", 8192),
    )
    if high <= low:
        raise unsupported("rope scaling with its bands swapped", f"{low} to {high}", "low below high")
    frequencies = np.float32(1) / base ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
    wavelengths = np.float32(2 * math.pi) / frequencies
    smooth = (np.float32(context) / wavelengths - np.float32(low)) / np.float32(high - low)
    between = 1 / ((1 - smooth) / np.float32(factor) + smooth)
    factors = np.where(wavelengths < context / high, np.float32(1), between)
    return np.where(wavelengths > context / low, np.float32(factor), factors).astype(np.float32)
