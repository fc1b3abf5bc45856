"""Gated delta nets: linear attention whose value heads llama.cpp pairs with key heads in another order.

Checkpoints hold the value heads of the first key head, then those of the second; llama.cpp wants the first value head
of every key head, then the second of every one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.converters.gguf.decoder import Line
from edgekit.converters.gguf.family import U32, Entry, Mapped, Part, expect, unsupported, whole
from edgekit.tensors import Float32, TensorSource


class Tiled:
    """Columns, or a vector's elements, from the checkpoint's order of value heads to llama.cpp's."""

    def __init__(self, keys: int, values: int, size: int) -> None:
        self.shape = keys, values // keys, size

    def __call__(self, rows: Float32) -> Float32:
        heads = rows.reshape(-1, *self.shape)
        return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


class Decay(Tiled):
    """How much of its state each head forgets, from its logarithm."""

    def __call__(self, rows: Float32) -> Float32:
        # In float64, as the exponential of float32 differs from one machine to the next.
        return (-np.exp(super().__call__(rows).astype(np.float64))).astype(np.float32)


def check(config: Mapping[str, Any]) -> None:
    """Refuse heads that llama.cpp can't pair."""
    size, keys, values = _heads(config)
    if whole(config, "linear_value_head_dim") != size or values % keys:
        found = f"{values} of {config['linear_value_head_dim']} and {keys} of {size}"
        raise unsupported("value and key heads that llama.cpp can't pair", found, "one size, and a multiple")


def metadata(arch: str, config: Mapping[str, Any]) -> list[Entry]:
    """The keys of the linear layers."""
    size, keys, values = _heads(config)
    numbers = {
        "conv_kernel": whole(config, "linear_conv_kernel_dim"),
        "state_size": size,
        "group_count": keys,
        "time_step_rank": values,
        "inner_size": size * values,
    }
    return [Entry(f"{arch}.ssm.{key}", value, U32) for key, value in numbers.items()]


def lines(config: Mapping[str, Any]) -> list[Line]:
    """What keeps its rows as they are."""
    hidden, (size, keys, values) = whole(config, "hidden_size"), _heads(config)
    tiled = Tiled(keys, values, size)
    return [
        Line("linear_attn.norm", "ssm_norm", (size,), bias=False),
        Line("linear_attn.out_proj", "ssm_out", (hidden, size * values), 1, tiled, bias=False),
    ]


def tensors(source: TensorSource, config: Mapping[str, Any], prefix: str, gguf_prefix: str) -> list[Mapped]:
    """What has a row, or ``size`` rows, for every value head, below those of the queries and keys where it has them."""
    hidden, (size, keys, values) = whole(config, "hidden_size"), _heads(config)
    kernel, paired = whole(config, "linear_conv_kernel_dim"), 2 * keys * size
    channels, each = paired + values * size, values // keys
    out = []
    for name, gguf, shape, first, rows in (
        ("in_proj_qkv.weight", "attn_qkv.weight", (channels, hidden), paired, size),
        ("in_proj_z.weight", "attn_gate.weight", (values * size, hidden), 0, size),
        ("in_proj_a.weight", "ssm_alpha.weight", (values, hidden), 0, 1),
        ("in_proj_b.weight", "ssm_beta.weight", (values, hidden), 0, 1),
        ("conv1d.weight", "ssm_conv1d.weight", (channels, 1, kernel), paired, size),
    ):
        one = f"{prefix}linear_attn.{name}"
        expect(source, one, shape)
        starts = [first + head * rows for i in range(each) for head in range(i, values, each)]
        parts = [Part(one, 0, first)] * bool(first) + [Part(one, at, at + rows) for at in starts]
        out.append(Mapped(gguf_prefix + gguf, (shape[0], shape[-1]), parts=tuple(parts)))
    for name, gguf, order in (("A_log", "ssm_a", Decay), ("dt_bias", "ssm_dt.bias", Tiled)):
        one = f"{prefix}linear_attn.{name}"
        vector = expect(source, one, (values,))
        out.append(Mapped(gguf_prefix + gguf, vector, one, transform=order(keys, values, 1)))
    return out


def _heads(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Size of a head, number of key heads, number of value heads."""
    names = ("linear_key_head_dim", "linear_num_key_heads", "linear_num_value_heads")
    size, keys, values = (whole(config, name) for name in names)
    return size, keys, values
