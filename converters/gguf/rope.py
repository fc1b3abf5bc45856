"""How positions rotate queries and keys: what configs say of it, in either way, and what GGUF holds of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.converters.gguf.family import F32, STRING, U32, Entry, Mapped, number, unsupported, whole
from edgekit.errors import InputError
from edgekit.tensors import Float32

UNROTATED = 1e30
"""What llama.cpp divides a frequency by that must not turn."""


def rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rope parameters as transformers 5 writes them, from either of the two ways configs put them."""
    merged = {"rope_theta": config.get("rope_theta", 10_000.0)}
    old, new = config.get("rope_scaling"), config.get("rope_parameters")
    if old and new and old != new:
        raise unsupported("the rotation is described twice", f"{old} and {new}", "rope_parameters alone")
    for key in ("rope_scaling", "rope_parameters"):
        block = config.get(key) or {}
        if not isinstance(block, dict):
            raise InputError(f"config.json's {key} is unsound", found=block, expected="an object")
        merged.update(block)
    if "rope_type" not in merged and "type" in merged:
        merged["rope_type"] = merged["type"]
    return merged


def rotation(config: Mapping[str, Any], head_dim: int) -> list[Mapped]:
    """Llama 3.1's rotation factors as a tensor, where the config asks for them."""
    scaling = rope(config)
    if scaling.get("rope_type") != "llama3":
        return []
    factors = llama3_factors(scaling, head_dim)
    return [Mapped("rope_freqs.weight", factors.shape, values=factors)]


def proportional(block: Mapping[str, Any], size: int) -> Mapped:
    """The part of a head of ``size`` that doesn't turn, as divisors of the frequencies; the rest is spread over all."""
    share = number(block, "partial_rotary_factor", 1.0)
    turning = int(size * share / 2)
    if share > 1 or turning != int(share * size // 2) or not turning:
        raise unsupported("this part of a head can't be rotated", share, "a part of 1")
    factors = np.full(size // 2, UNROTATED, np.float32)
    factors[:turning] = 1
    return Mapped("rope_freqs.weight", factors.shape, values=factors)


def llama3_factors(scaling: Mapping[str, Any], head_dim: int) -> Float32:
    """Llama 3.1's divisors of each rotation frequency (transformers' _compute_llama3_parameters)."""
    base = number(scaling, "rope_theta", 10_000.0)
    low, high = number(scaling, "low_freq_factor", 1.0), number(scaling, "high_freq_factor", 4.0)
    factor, context = (
        number(scaling, "factor", 8.0),
        number(scaling, "original_max_position_embeddings", 8192),
    )
    if high <= low:
        raise unsupported("rope scaling with its bands swapped", f"{low} to {high}", "low below high")
    # As torch rounds: x / tensor is x * (1 / tensor).
    one = np.float32(1)
    frequencies = one / (base ** (np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)
    wavelengths = one / frequencies * np.float32(2 * math.pi)
    smooth = (one / wavelengths * np.float32(context) - np.float32(low)) / np.float32(high - low)
    between = one / ((one - smooth) / np.float32(factor) + smooth)
    factors = np.where(wavelengths < context / high, np.float32(1), between)
    return np.where(wavelengths > context / low, np.float32(factor), factors).astype(np.float32)


def scaled(arch: str, scaling: Mapping[str, Any]) -> list[Entry]:
    """The keys of linear scaling and of YaRN."""
    kind, key = scaling.get("rope_type"), f"{arch}.rope.scaling"
    if kind not in {"linear", "yarn"}:
        return []
    entries = [
        Entry(f"{key}.type", kind, STRING),
        Entry(f"{key}.factor", number(scaling, "factor", 1.0), F32),
    ]
    if kind == "yarn":
        context = whole(scaling, "original_max_position_embeddings")
        entries.append(Entry(f"{key}.original_context_length", context, U32))
    return entries
