"""A model's shape from the headers of its GGUF files; no weight is read."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, Final

from edgekit.gguf_header import GgufArray, GgufHeader, GgufTensor
from edgekit.profiles.predict import Shape

_EXPERTS: Final = "_exps."


def shape_of(parts: list[tuple[Path, GgufHeader]]) -> Shape:
    """The shape of a model in the files that ``read_shards`` found."""
    keys = parts[0][1].keys
    tensors = [tensor for _, header in parts for tensor in header.tensors]
    arch = str(keys.get("general.architecture", ""))
    get = _getter(keys, arch)
    layers = get("block_count") or 1 + max(
        (
            int(t.name.split(".")[1])
            for t in tensors
            if t.name.startswith("blk.") and t.name.split(".")[1].isdigit()
        ),
        default=0,
    )
    heads = get("attention.head_count") or 1
    width = get("embedding_length") or 1
    head = width // max(1, heads)
    key, value = get("attention.key_length") or head, get("attention.value_length") or head
    kv_heads = _per_layer(keys.get(f"{arch}.attention.head_count_kv", heads), layers)
    attends = {int(t.name.split(".")[1]) for t in tensors if _keeps_keys(t.name)}
    window = get("attention.sliding_window")
    vocabulary = next((t.dimensions[1] for t in tensors if t.name == "token_embd.weight"), 0)
    read = [_read(tensor, tensors, get) for tensor in tensors]
    return Shape(
        file_bytes=sum(place.stat().st_size for place, _ in parts),
        weight_bytes=sum(tensor.nbytes for tensor in tensors),
        token_bytes=int(sum(share * t.nbytes for share, t in zip(read, tensors, strict=True))),
        token_weights=int(sum(share * prod(t.dimensions) for share, t in zip(read, tensors, strict=True))),
        layers=layers,
        kv_widths=tuple(kv_heads[i] * (key + value) if i in attends else 0 for i in range(layers)),
        windows=_windows(keys.get(f"{arch}.attention.sliding_window_pattern"), window, layers),
        state_bytes=_state(get, layers - len(attends)),
        n_vocab=vocabulary,
        width=width,
        ffn=get("feed_forward_length") or get("expert_feed_forward_length") or 4 * width,
        trained=get("context_length") or 2048,
    )


def _getter(keys: dict[str, Any], arch: str) -> Callable[[str], int]:
    def get(name: str) -> int:
        """A number of the architecture's; the largest where every layer has one."""
        value = keys.get(f"{arch}.{name}", 0)
        if isinstance(value, GgufArray):
            return max((int(one) for one in value.first), default=0)
        return int(value) if isinstance(value, int | float) else 0

    return get


def _per_layer(value: Any, layers: int) -> list[int]:
    """A number for each layer, where the header has one for all, or an array whose beginning is kept."""
    if not isinstance(value, GgufArray):
        return [int(value)] * layers
    first = [int(one) for one in value.first] or [1]
    return [first[i % len(first)] for i in range(layers)]


def _keeps_keys(name: str) -> bool:
    """Whether a tensor tells that its layer has keys and values of its own."""
    return name.startswith("blk.") and name.split(".")[1].isdigit() and name.split(".")[2] in {
        "attn_k", "attn_qkv", "attn_kv_b", "attn_k_b", "attn_kv_a_mqa",
    }  # fmt: skip


def _windows(pattern: Any, window: int, layers: int) -> tuple[int, ...]:
    """By layer; without a pattern every second layer of those that have a window sees all."""
    if not window:
        return (0,) * layers
    if isinstance(pattern, GgufArray):
        return tuple(window if pattern.first[i % len(pattern.first)] else 0 for i in range(layers))
    return (0,) * layers


def _state(get: Callable[[str], int], recurrent: int) -> int:
    """Bytes of Mamba's states of one sequence, in float32."""
    inner, state, kernel = get("ssm.inner_size"), get("ssm.state_size"), get("ssm.conv_kernel")
    groups = get("ssm.group_count")
    return 4 * recurrent * (inner * state + max(0, kernel - 1) * (inner + 2 * groups * state))


def _read(tensor: GgufTensor, tensors: list[GgufTensor], get: Callable[[str], int]) -> float:
    """The share of a tensor that one token reads."""
    if _EXPERTS in tensor.name and get("expert_count"):
        return min(1.0, get("expert_used_count") / get("expert_count"))
    if tensor.name == "token_embd.weight" and any(other.name == "output.weight" for other in tensors):
        return 0.0
    return 1.0
