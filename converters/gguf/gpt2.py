"""GPT-2: learned positions, LayerNorms and biases everywhere, layers stored transposed (Conv1D)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, limits, settings
from edgekit.converters.gguf.decoder import Line
from edgekit.converters.gguf.family import F32, U32, Entry, Mapped, Part, expect, number, unsupported, whole
from edgekit.converters.gguf.presets import Model
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("GPT2LMHeadModel",)
ARCH = "gpt2"
IGNORED: Sequence[str] = (".attn.bias", ".attn.masked_bias")
"""The causal mask, which old checkpoints store."""

ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh")
"""Two names of the same function, llama.cpp's gelu."""
BIASED = ("attn_norm", "ffn_norm", "output_norm", "attn_qkv", "attn_output", "ffn_up", "ffn_down")


def check(config: Mapping[str, Any]) -> None:
    limits.check_head_size(config, "n_embd", "n_head")
    if config.get("activation_function", ACTIVATIONS[0]) not in ACTIVATIONS:
        raise unsupported("another activation than GPT-2's", config["activation_function"], ACTIVATIONS[0])
    settings.fixed(
        config,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
        is_causal=True,
        n_ctx=whole(config, "n_positions", 1024),
    )


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    return [
        Entry(f"{ARCH}.block_count", whole(config, "n_layer"), U32),
        Entry(f"{ARCH}.context_length", whole(config, "n_positions", 1024), U32),
        Entry(f"{ARCH}.embedding_length", whole(config, "n_embd"), U32),
        Entry(f"{ARCH}.feed_forward_length", _inner(config), U32),
        Entry(f"{ARCH}.attention.head_count", whole(config, "n_head"), U32),
        Entry(f"{ARCH}.attention.layer_norm_epsilon", number(config, "layer_norm_epsilon", 1e-5), F32),
    ]


def tensors(source: TensorSource) -> list[Mapped]:
    config = source.config
    hidden, inner, vocab = whole(config, "n_embd"), _inner(config), whole(config, "vocab_size")
    # Checkpoints of the model without a head, OpenAI's own among them, name no outer module.
    outer = "transformer." if decoder.has(source, "transformer.wte.weight") else ""
    top = [
        Line("wte", "token_embd", (vocab, hidden)),
        Line("wpe", "position_embd", (whole(config, "n_positions", 1024), hidden)),
        Line("ln_f", "output_norm", (hidden,)),
    ]
    out = decoder.table(source, top, outer, "")
    if config.get("tie_word_embeddings", True) is not True or "lm_head.weight" in source.names():
        out += decoder.table(source, [Line("lm_head", "output", (vocab, hidden))], "", "")
    norms = [Line("ln_1", "attn_norm", (hidden,)), Line("ln_2", "ffn_norm", (hidden,))]
    for layer in range(whole(config, "n_layer")):
        prefix, gguf = f"{outer}h.{layer}.", f"blk.{layer}."
        out += decoder.table(source, norms, prefix, gguf)
        out += _transposed(source, f"{prefix}attn.c_attn", f"{gguf}attn_qkv", (3 * hidden, hidden))
        out += _transposed(source, f"{prefix}attn.c_proj", f"{gguf}attn_output", (hidden, hidden))
        out += _transposed(source, f"{prefix}mlp.c_fc", f"{gguf}ffn_up", (inner, hidden))
        out += _transposed(source, f"{prefix}mlp.c_proj", f"{gguf}ffn_down", (hidden, inner))
    return settings.biased(out, *BIASED)


def mixture(config: Mapping[str, Any]) -> Model:
    return Model(whole(config, "n_layer"), whole(config, "n_head"), whole(config, "n_head"))


def _transposed(source: TensorSource, module: str, gguf: str, shape: tuple[int, int]) -> list[Mapped]:
    rows, columns = shape
    weight, bias = f"{module}.weight", f"{module}.bias"
    expect(source, weight, (columns, rows))
    return [
        Mapped(f"{gguf}.weight", shape, parts=(Part(weight, 0, rows, columns=True),)),
        Mapped(f"{gguf}.bias", expect(source, bias, (rows,)), bias),
    ]


def _inner(config: Mapping[str, Any]) -> int:
    return whole(config, "n_inner", 4 * whole(config, "n_embd"))
