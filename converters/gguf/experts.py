"""Mixtures of experts: a layer's experts become three stacks, each read a chunk of one expert at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgekit.converters.gguf import decoder
from edgekit.converters.gguf.decoder import Line, has
from edgekit.converters.gguf.family import U32, Entry, Mapped, Part, expect, unsupported, whole
from edgekit.converters.gguf.limits import check_flag
from edgekit.converters.gguf.presets import Model
from edgekit.errors import InputError
from edgekit.tensors import TensorSource

MOST = 1024
"""llama.cpp's LLAMA_MAX_EXPERTS."""

QWEN = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
"""Names of an expert's weights in Qwen's checkpoints."""


def count(config: Mapping[str, Any]) -> int:
    """Experts of a layer, by either of their two names."""
    named = {key: config[key] for key in ("num_local_experts", "num_experts") if config.get(key) is not None}
    if any(value != next(iter(named.values())) for value in named.values()):
        raise InputError("config.json counts the experts twice", found=named, expected="one number")
    return whole(config, next(iter(named), "num_local_experts"))


def check(config: Mapping[str, Any]) -> None:
    """Refuse numbers of experts that llama.cpp takes for something else."""
    found, used = count(config), whole(config, "num_experts_per_tok")
    if not 2 <= found <= MOST or used > found:
        raise unsupported(
            "a number of experts that llama.cpp doesn't run", f"{used} of {found}", f"2 to {MOST}"
        )


def check_every_layer(config: Mapping[str, Any]) -> None:
    """Refuse layers without experts among those with them."""
    if whole(config, "decoder_sparse_step", 1) != 1:
        raise unsupported(
            "experts in some layers only", config["decoder_sparse_step"], "decoder_sparse_step 1"
        )
    check_flag(config, "mlp_only_layers", "layers without experts")


def metadata(arch: str, config: Mapping[str, Any], **lengths: str) -> list[Entry]:
    """Numbers of experts, and feed-forward sizes: ``gguf_name="config_key"``."""
    return [
        Entry(f"{arch}.expert_count", count(config), U32),
        Entry(f"{arch}.expert_used_count", whole(config, "num_experts_per_tok"), U32),
        *(Entry(f"{arch}.{name}", whole(config, key), U32) for name, key in lengths.items()),
    ]


def mixture(config: Mapping[str, Any]) -> Model:
    """What the presets look at, of a decoder with experts."""
    return replace(decoder.mixture(config), experts=count(config))


def router(config: Mapping[str, Any], module: str = "mlp.gate") -> Line:
    """What gives every expert its weight."""
    return Line(module, "ffn_gate_inp", (count(config), whole(config, "hidden_size")), bias=False)


def qwen_stacks(source: TensorSource, config: Mapping[str, Any]) -> list[Mapped]:
    """Those of Qwen's checkpoints."""
    return stacks(source, config, "mlp.experts", QWEN, whole(config, "moe_intermediate_size"))


def stacks(
    source: TensorSource, config: Mapping[str, Any], module: str, modules: Mapping[str, str], ffn: int
) -> list[Mapped]:
    """gate, up and down of every layer's experts, with ``ffn`` rows each.

    Published checkpoints hold a tensor for each expert, below ``module`` and named by ``modules``; transformers 5
    may hold gate and up fused, and all experts in one tensor.
    """
    out, hidden, experts = [], whole(config, "hidden_size"), count(config)
    for layer in range(whole(config, "num_hidden_layers")):
        prefix = f"model.layers.{layer}."
        fused = has(source, f"{prefix}mlp.experts.gate_up_proj")
        for kind, name in modules.items():
            shape = (experts, hidden, ffn) if kind == "down" else (experts, ffn, hidden)
            if fused:
                parts = _slices(source, f"{prefix}mlp.experts.", kind, shape)
            else:
                parts = _singles(source, f"{prefix}{module}", name, shape)
            out.append(Mapped(f"blk.{layer}.ffn_{kind}_exps.weight", shape, parts=parts))
    return out


def _singles(source: TensorSource, prefix: str, name: str, shape: tuple[int, int, int]) -> tuple[Part, ...]:
    experts, rows, columns = shape
    names = [f"{prefix}.{i}.{name}.weight" for i in range(experts)]
    for one in names:
        expect(source, one, (rows, columns))
    return tuple(Part(one, 0, rows) for one in names)


def _slices(source: TensorSource, prefix: str, kind: str, shape: tuple[int, int, int]) -> tuple[Part, ...]:
    experts, rows, columns = shape
    name, stride = (f"{prefix}down_proj", rows) if kind == "down" else (f"{prefix}gate_up_proj", 2 * rows)
    expect(source, name, (experts, stride, columns))
    first = rows if kind == "up" else 0
    return tuple(Part(name, at, at + rows) for at in range(first, experts * stride, stride))
