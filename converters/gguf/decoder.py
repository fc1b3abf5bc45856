"""What most families share: sizes, rotation and tables of a decoder's layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.converters.gguf.family import (
    F32,
    U32,
    Entry,
    Mapped,
    expect,
    number,
    unsupported,
    whole,
)
from edgekit.converters.gguf.presets import Model
from edgekit.converters.gguf.rope import rope, rotation, scaled
from edgekit.tensors import Float32, TensorSource

ROPE_NEEDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
"""Rope scalings, and the numbers they can't do without."""

ROPES = ("default", "linear", "llama3")
"""Those that any family may have."""

Transform = Callable[[Float32], Float32]


@dataclass(frozen=True)
class Line:
    """One module of a layer: the checkpoint's name, GGUF's, its weight's shape, and what happens to its rows.

    A bias is taken along where the checkpoint has one, or as ``bias`` says. ``bare`` names a parameter by its whole
    name instead of a module; what is ``optional`` may be missing.
    """

    module: str
    gguf: str
    shape: tuple[int, ...]
    unit: int = 1
    transform: Transform | None = None
    bias: bool | None = None
    bare: bool = False
    optional: bool = False


def heads(config: Mapping[str, Any]) -> tuple[int, int]:
    """Query heads and key-value heads."""
    count = whole(config, "num_attention_heads")
    return count, whole(config, "num_key_value_heads", count)


def head_dim(config: Mapping[str, Any]) -> int:
    """Size of a head, which need not be hidden size / heads."""
    return whole(config, "head_dim", whole(config, "hidden_size") // whole(config, "num_attention_heads"))


def mixture(config: Mapping[str, Any]) -> Model:
    """What the presets look at."""
    return Model(whole(config, "num_hidden_layers"), *heads(config))


def check(config: Mapping[str, Any], activation: str = "silu", ropes: Sequence[str] = ROPES) -> None:
    """Refuse what a decoder of this activation and these rope scalings would compute otherwise."""
    found = config.get("hidden_act", activation)
    if found != activation:
        raise unsupported("another activation than the family's", found, activation)
    scaling = rope(config)
    kind = scaling.get("rope_type", "default")
    if not isinstance(kind, str) or kind not in ropes:
        raise unsupported("a rope scaling that isn't converted", kind, " or ".join(ropes))
    for key in ROPE_NEEDS.get(kind, ()):
        number(scaling, key, math.nan)
    count, shared = heads(config)
    if count % shared:
        raise unsupported("heads don't share key-value heads evenly", f"{count} and {shared}", "a multiple")
    if head_dim(config) % 2:
        raise unsupported("an odd head size can't be rotated", head_dim(config), "an even number")


def metadata(
    arch: str, config: Mapping[str, Any], *, epsilon: str = "rms_norm_eps", llama: bool = True
) -> list[Entry]:
    """The keys of a decoder; ``epsilon`` is the config's name of the norms' epsilon (``layer_…`` for LayerNorm).

    ``llama`` adds the two that llama.cpp's converter writes for Llama's kin only.
    """
    count, shared = heads(config)
    kind = "rms_" if "rms" in epsilon else ""
    entries = [
        Entry(f"{arch}.block_count", whole(config, "num_hidden_layers"), U32),
        Entry(f"{arch}.context_length", whole(config, "max_position_embeddings", 2048), U32),
        Entry(f"{arch}.embedding_length", whole(config, "hidden_size"), U32),
        Entry(f"{arch}.feed_forward_length", whole(config, "intermediate_size"), U32),
        Entry(f"{arch}.attention.head_count", count, U32),
        Entry(f"{arch}.attention.head_count_kv", shared, U32),
    ]
    scaling = rope(config)
    entries += scaled(arch, scaling)
    entries.append(Entry(f"{arch}.rope.freq_base", number(scaling, "rope_theta", 10_000.0), F32))
    entries.append(Entry(f"{arch}.attention.layer_norm_{kind}epsilon", number(config, epsilon, 1e-6), F32))
    # Without head_dim llama.cpp divides the hidden size by the heads too.
    if config.get("head_dim") is not None:
        entries.append(Entry(f"{arch}.attention.key_length", head_dim(config), U32))
        entries.append(Entry(f"{arch}.attention.value_length", head_dim(config), U32))
    if llama:
        entries.append(Entry(f"{arch}.vocab_size", whole(config, "vocab_size"), U32))
        entries.append(Entry(f"{arch}.rope.dimension_count", head_dim(config), U32))
    return entries


def decoder(
    source: TensorSource,
    lines: Sequence[Line],
    norm: Transform | None = None,
    config: Mapping[str, Any] | None = None,
) -> list[Mapped]:
    """Every tensor of a decoder whose layers are all alike; ``norm`` changes the last norm as ``lines`` do theirs.

    ``config`` is the source's unless the family fills something in.
    """
    config = source.config if config is None else config
    last = Line("model.norm", "output_norm", (whole(config, "hidden_size"),), transform=norm)
    layers = [lines] * whole(config, "num_hidden_layers")
    return stacked(source, top(source, config, last), layers) + rotation(config, head_dim(config))


def top(source: TensorSource, config: Mapping[str, Any], norm: Line, tied: bool = False) -> list[Line]:
    """Embedding, last norm, and the head unless it is the embedding; ``tied`` is what a silent config means."""
    shape = whole(config, "vocab_size"), whole(config, "hidden_size")
    lines = [Line("model.embed_tokens", "token_embd", shape, bias=norm.bias), norm]
    if config.get("tie_word_embeddings", tied) is not True or "lm_head.weight" in source.names():
        lines.append(Line("lm_head", "output", shape, bias=norm.bias))
    return lines


def stacked(source: TensorSource, top: Sequence[Line], layers: Sequence[Sequence[Line]]) -> list[Mapped]:
    """The tensors of ``top``, then every layer's."""
    out = table(source, top, "", "")
    for layer, lines in enumerate(layers):
        out += table(source, lines, f"model.layers.{layer}.", f"blk.{layer}.")
    return out


def table(source: TensorSource, lines: Sequence[Line], prefix: str, gguf_prefix: str) -> list[Mapped]:
    """The tensors that lines of a table name, weights and the biases that are there."""
    out = []
    for line in lines:
        for parameter in ("",) if line.bare else (".weight", ".bias"):
            name, shape = f"{prefix}{line.module}{parameter}", line.shape
            if line.optional and not has(source, name):
                continue
            if parameter == ".bias":
                if not (has(source, name) if line.bias is None else line.bias):
                    continue
                shape = shape[:1]
            gguf_name = f"{gguf_prefix}{line.gguf}{parameter}"
            out.append(Mapped(gguf_name, expect(source, name, shape), name, line.unit, line.transform))
    return out


def attention(
    config: Mapping[str, Any],
    *,
    rotated: bool = False,
    bias: bool | None = None,
    output_bias: bool | None = None,
) -> list[Line]:
    """q, k, v and o; ``rotated`` puts q and k in the order in which llama.cpp rotates pairs (its "norm" rope)."""
    hidden, size, (count, shared) = whole(config, "hidden_size"), head_dim(config), heads(config)
    unit, transform = (size, interleave(size)) if rotated else (1, None)
    return [
        Line("self_attn.q_proj", "attn_q", (count * size, hidden), unit, transform, bias),
        Line("self_attn.k_proj", "attn_k", (shared * size, hidden), unit, transform, bias),
        Line("self_attn.v_proj", "attn_v", (shared * size, hidden), bias=bias),
        Line("self_attn.o_proj", "attn_output", (hidden, count * size), bias=output_bias),
    ]


def gated(config: Mapping[str, Any], *, bias: bool | None = None) -> list[Line]:
    """gate, up and down of a gated feed-forward."""
    hidden, ffn = whole(config, "hidden_size"), whole(config, "intermediate_size")
    return [
        Line("mlp.gate_proj", "ffn_gate", (ffn, hidden), bias=bias),
        Line("mlp.up_proj", "ffn_up", (ffn, hidden), bias=bias),
        Line("mlp.down_proj", "ffn_down", (hidden, ffn), bias=bias),
    ]


def norms(config: Mapping[str, Any], transform: Transform | None = None, **names: str) -> list[Line]:
    """Norms over the hidden size: ``checkpoint_name="gguf_name"``."""
    hidden = whole(config, "hidden_size")
    return [Line(name, short, (hidden,), transform=transform) for name, short in names.items()]


def head_norms(
    config: Mapping[str, Any],
    transform: Transform | None = None,
    *,
    bias: bool | None = None,
    suffix: str = "norm",
) -> list[Line]:
    """Norms over each head of q and k."""
    size = (head_dim(config),)
    return [
        Line(f"self_attn.{kind}_{suffix}", f"attn_{kind}_norm", size, transform=transform, bias=bias)
        for kind in "qk"
    ]


def plus_one(rows: Float32) -> Float32:
    """What norms multiply by whose weights are kept around zero."""
    return rows + np.float32(1)


def has(source: TensorSource, name: str) -> bool:
    """Whether the checkpoint holds a tensor."""
    try:
        source.info(name)
    except KeyError:
        return False
    return True


class interleave:
    """Rows of whole heads from transformers' rotate-half order to the interleaved pairs that llama.cpp rotates."""

    def __init__(self, head_dim: int) -> None:
        self.head_dim = head_dim

    def __call__(self, rows: Float32) -> Float32:
        heads = rows.reshape(-1, 2, self.head_dim // 2, *rows.shape[1:])
        return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)
