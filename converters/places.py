"""Where a base keeps what an adapter names: modules, embeddings, tied heads and experts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.tensors import TensorSource

HEAD = "lm_head.weight"
OUTER = ("transformer.", "model.")
"""What the model class puts before names that some checkpoints store without (GPT-2's do)."""
CONV1D = {"gpt2", "gpt_bigcode", "openai-gpt"}
"""Model types whose linear layers store (in, out): a LoRA's product is added transposed (fan_in_fan_out)."""
TRANSPOSED_EXPERTS = {"gpt_oss", "aria"}
"""Model types whose stacks of experts are (experts, in, out); the others' are (experts, out, in)."""

_ONE_EXPERT = re.compile(r"(?P<owner>.+\.experts)\.(?P<number>\d+)\.(?P<kind>[^.]+)\.weight")
_HALVES = {
    "gate_proj": ("gate_up_proj", 0), "w1": ("gate_up_proj", 0), "up_proj": ("gate_up_proj", 1),
    "w3": ("gate_up_proj", 1), "down_proj": ("down_proj", 0), "w2": ("down_proj", 0),
}  # fmt: skip
"""A stored expert's matrix -> the stack that transformers makes of it, and which half of its rows it is."""
SPLIT_TYPES = {"mixtral", "qwen2_moe", "qwen3_moe", "olmoe"}
"""Model types whose checkpoints store each expert by itself while transformers, and so PEFT, sees stacks."""


@dataclass(frozen=True)
class Stack:
    """A parameter with all experts: one stored tensor, or (expert, first row) of each stored part of it."""

    experts: int
    out: int
    columns: int
    stored: str | None
    parts: Mapping[str, tuple[int, int]]


def tensor_of(base: TensorSource, module: str, parameter: str = "weight") -> str | None:
    """The base's name of a module's parameter: as it is, or without transformers' outer prefix; None if absent."""
    names = base.names()
    for candidate in (module, *(module.removeprefix(p) for p in OUTER if module.startswith(p))):
        if f"{candidate}.{parameter}" in names:
            return f"{candidate}.{parameter}"
    return None


def input_embedding(names: Sequence[str]) -> str | None:
    """The tensor that token ids look up, by the names that checkpoints give it."""
    return next((n for n in names if n.endswith(("embed_tokens.weight", "wte.weight"))), None)


def is_tied(base: TensorSource) -> bool:
    """Whether the output head is the input embedding."""
    return base.config.get("tie_word_embeddings", True) is True and "lm_head.weight" not in base.names()


def is_transposed(base: TensorSource, name: str) -> bool:
    """Whether a matrix is stored (in, out)."""
    return base.config.get("model_type") in CONV1D and name != HEAD


def expert_stacks(base: TensorSource) -> dict[str, Stack]:
    """The stacks of experts by the names that PEFT's target_parameters match."""
    found: dict[str, Stack] = {}
    halves: dict[str, dict[tuple[int, int], str]] = {}
    for name in base.names():
        shape = base.info(name).shape
        if len(shape) == 3 and name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
            out, columns = shape[:0:-1] if base.config.get("model_type") in TRANSPOSED_EXPERTS else shape[1:]
            found[name] = Stack(shape[0], out, columns, name, {})
        match = _ONE_EXPERT.fullmatch(name) if base.config.get("model_type") in SPLIT_TYPES else None
        if match and len(shape) == 2 and (half := _HALVES.get(match["kind"])):
            owner = match["owner"].replace(".block_sparse_moe.experts", ".mlp.experts")
            halves.setdefault(f"{owner}.{half[0]}", {})[int(match["number"]), half[1]] = name
    for name, parts in halves.items():
        if stack := _joined(base, parts):
            found[name] = stack
    return found


def _joined(base: TensorSource, parts: Mapping[tuple[int, int], str]) -> Stack | None:
    """The stack of stored matrices, if they are of one shape and none is missing."""
    experts, halves = 1 + max(e for e, _ in parts), 1 + max(half for _, half in parts)
    shapes = {base.info(name).shape for name in parts.values()}
    if len(shapes) != 1 or len(parts) != experts * halves:
        return None
    rows, columns = shapes.pop()
    places = {name: (expert, half * rows) for (expert, half), name in parts.items()}
    return Stack(experts, rows * halves, columns, None, places)
