"""Where a base keeps what an adapter names: modules, embeddings, tied heads and experts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.tensors import TensorSource

HEAD = "lm_head.weight"
OUTER = ("transformer.", "model.")
"""What the model class puts before names that some checkpoints store without (GPT-2's do)."""
TEXT_MODEL = ("model.language_model.", "language_model.model.")
"""What multimodal classes, today's and older ones, call the text model's ``model.``."""
OTHER_PARTS = (
    "model.vision_tower.", "vision_tower.", "model.visual.", "visual.", "model.multi_modal_projector.",
    "multi_modal_projector.", "model.embed_vision.", "model.audio_tower.", "model.embed_audio.", "mtp.",
)  # fmt: skip
"""Beginnings of what lies beside a text model: image and audio towers, projectors, layers that guess further tokens."""
UNTRAINED = "its factors beside the text model are all zero, so nothing is lost with them"
CONV1D = {"gpt2", "gpt_bigcode", "openai-gpt"}
"""Model types whose linear layers store (in, out): a LoRA's product is added transposed (fan_in_fan_out)."""
RELIABLE_SQUARES = (0, 21)
"""Since this PEFT a stack whose matrices are square is told by its model; earlier ones read all as (in, out)."""
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


def text_name(name: str) -> str:
    """A tensor's or module's name in the text model alone, from its name in a multimodal one."""
    for outer in TEXT_MODEL:
        if name.startswith(outer):
            return f"model.{name.removeprefix(outer)}"
    return name.removeprefix("language_model.") if name.startswith("language_model.lm_head") else name


def absent(name: str, kind: str) -> str:
    """Why an adapter's tensor or module has no place."""
    if name.startswith(OTHER_PARTS):
        return "was trained beside the text model, which alone is converted"
    return f"the base has no such {kind}"


def spelling(modules: Iterable[str]) -> str:
    """What an adapter's modules call the text model's ``model.``."""
    return next((outer for module in modules for outer in TEXT_MODEL if module.startswith(outer)), "model.")


def tensor_of(base: TensorSource, module: str, parameter: str = "weight") -> str | None:
    """The base's name of a module's parameter: as it is, or as the text model alone or transformers' inner one has it.

    None if it is absent.
    """
    names = base.names()
    for candidate in (
        module,
        text_name(module),
        *(module.removeprefix(p) for p in OUTER if module.startswith(p)),
    ):
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


def square_is_known(base: TensorSource, peft_version: object) -> bool:
    """Whether it is clear which way square experts of an adapter lie."""
    if base.config.get("model_type") in TRANSPOSED_EXPERTS:
        return True
    version = str(peft_version or "").split(".")[:2]
    known = len(version) == 2 and all(part.isdecimal() for part in version)
    return known and tuple(map(int, version)) >= RELIABLE_SQUARES


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
