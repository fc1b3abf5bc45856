"""A model's shape from a GGUF's keys and tensors, read or planned; no weight is looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final

from edgekit.gguf_header import GgufArray, GgufHeader, GgufTensor
from edgekit.profiles.predict import Shape

_EXPERTS: Final = "_exps."
_EMBEDDING: Final = "token_embd.weight"
_HEAD: Final = "output.weight"
_LOOKED_UP: Final = (_EMBEDDING, "per_layer_token_embd.weight", "position_embd.weight")
"""Tables of which a token reads one row."""
_KEYS: Final = frozenset({"attn_k", "attn_qkv", "attn_kv_b", "attn_k_b", "attn_kv_a_mqa"})
"""Tensors that tell of a layer with keys and values, unless it is recurrent."""
_UNWINDOWED: Final = ("phi3",)
"""Architectures whose window llama.cpp reads and doesn't apply."""
_RECURRENT: Final = ("ssm_", "shortconv")


def shape_of(parts: Sequence[tuple[Path, GgufHeader]]) -> Shape:
    """The shape of a model in the files that ``read_shards`` found."""
    tensors = [tensor for _, header in parts for tensor in header.tensors]
    return shape(parts[0][1].keys, tensors, sum(place.stat().st_size for place, _ in parts))


def shape(keys: Mapping[str, Any], tensors: Sequence[GgufTensor], file_bytes: int) -> Shape:
    """The shape of a model whose header has, or will have, these keys and tensors."""
    model = _Model(keys, tensors)
    read = [(model.share(tensor), tensor) for tensor in tensors]
    token_kinds = Counter[str]()
    for share, tensor in read:
        token_kinds[tensor.kind] += share * prod(tensor.dimensions)  # type: ignore[assignment]
    matrices, experts = model.kinds()
    return Shape(
        file_bytes=file_bytes,
        weight_bytes=sum(tensor.nbytes for tensor in tensors),
        token_bytes=int(sum(share * t.nbytes for share, t in read)),
        token_weights=int(sum(token_kinds.values())),
        token_kinds=dict(token_kinds),
        layers=model.layers,
        kv_widths=model.widths(),
        state_bytes=model.state(),
        n_vocab=next((t.dimensions[1] for t in tensors if t.name == _EMBEDDING), 0),
        width=model.most("embedding_length") or 1,
        ffn=model.ffn(),
        trained=model.most("context_length") or 2048,
        matrices=matrices,
        experts=experts,
        masks=1 + (model.most("attention.sliding_window") > 0 and model.arch not in _UNWINDOWED),
    )


class _Model:
    """Keys by their names without the architecture's, and what tensors each layer has."""

    def __init__(self, keys: Mapping[str, Any], tensors: Sequence[GgufTensor]) -> None:
        self.tensors = tensors
        self.arch = str(keys.get("general.architecture", ""))
        own = f"{self.arch}."
        self.keys = {k.removeprefix(own): v for k, v in keys.items() if k.startswith(own)}
        self.parts: dict[int, set[str]] = {}
        for tensor in tensors:
            block, _, rest = tensor.name.partition(".")
            number, _, part = rest.partition(".")
            if block == "blk" and number.isdigit():
                self.parts.setdefault(int(number), set()).add(part.partition(".")[0])
        self.layers = self.most("block_count") or 1 + max(self.parts, default=0)
        self.tied = not any(tensor.name == _HEAD for tensor in tensors)

    def most(self, name: str) -> int:
        """A number of the architecture's; the largest where every layer has one; 0 where there is none."""
        value = self.keys.get(name, 0)
        if isinstance(value, GgufArray):
            return max((int(one) for one in value.first), default=0)
        return int(value) if isinstance(value, int | float) else 0

    def each(self, name: str, default: int) -> list[int]:
        """A number for each layer, where the header has one for all, or an array."""
        value = self.keys.get(name, default)
        if not isinstance(value, GgufArray):
            return [int(value)] * self.layers
        found = [int(one) for one in value.first] or [default]
        return [found[i % len(found)] for i in range(self.layers)]

    def ffn(self) -> int:
        """Width of what a token passes in a layer's feed-forward."""
        one = self.most("feed_forward_length")
        if used := self.most("expert_used_count"):
            one = max(one, used * (self.most("expert_feed_forward_length") or one))
        return one or 4 * self.most("embedding_length")

    def widths(self) -> tuple[int, ...]:
        """Numbers that each layer keeps for a place of the context."""
        heads = self.most("attention.head_count") or 1
        head = self.most("embedding_length") // heads
        key = self.most("attention.key_length") or head
        value = self.most("attention.value_length") or head
        local = self.most("attention.key_length_swa") or key, self.most("attention.value_length_swa") or value
        windowed = self.each("attention.sliding_window_pattern", 0)
        sizes = [sum(local) if near else key + value for near in windowed]
        counts = self.each("attention.head_count_kv", heads)
        storing = self.layers - self.most("attention.shared_kv_layers")
        return tuple(
            count * size if self._attends(i) and i < storing else 0
            for i, (count, size) in enumerate(zip(counts, sizes, strict=True))
        )

    def _attends(self, layer: int) -> bool:
        return bool(self.parts.get(layer, set()) & _KEYS) and not self._recurs(layer)

    def _recurs(self, layer: int) -> bool:
        return any(part.startswith(_RECURRENT) for part in self.parts.get(layer, ()))

    def state(self) -> int:
        """Bytes of the states of one sequence in float32: of convolutions, and of what Mamba and delta nets sum up."""
        layers = sum(self._recurs(i) for i in range(self.layers))
        if short := self.most("shortconv.l_cache"):
            return 4 * layers * (short - 1) * self.most("embedding_length")
        inner, state, kernel = (
            self.most(f"ssm.{name}") for name in ("inner_size", "state_size", "conv_kernel")
        )
        channels = inner + 2 * self.most("ssm.group_count") * state
        return 4 * layers * (inner * state + max(0, kernel - 1) * channels)

    def share(self, tensor: GgufTensor) -> float:
        """The share of a tensor that one token reads."""
        if _EXPERTS in tensor.name and self.most("expert_count"):
            return min(1.0, self.most("expert_used_count") / self.most("expert_count"))
        if tensor.name in _LOOKED_UP and not (tensor.name == _EMBEDDING and self.tied):
            return 0.0
        return 1.0

    def kinds(self) -> tuple[dict[str, int], dict[str, int]]:
        """Bytes by type of the matrices that tokens are multiplied with, and of experts."""
        matrices, experts = Counter[str](), Counter[str]()
        for tensor in self._multiplied():
            (experts if _EXPERTS in tensor.name else matrices)[tensor.kind] += tensor.nbytes
        return dict(matrices), dict(experts)

    def _multiplied(self) -> Iterable[GgufTensor]:
        for tensor in self.tensors:
            table = tensor.name in _LOOKED_UP and not (tensor.name == _EMBEDDING and self.tied)
            if (
                len(tensor.dimensions) > 1
                and not table
                and "norm" not in tensor.name
                and "conv" not in tensor.name
            ):
                yield tensor
