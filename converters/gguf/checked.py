"""What was checked of every model, from the last run of ``make families``: checked.json holds its figures."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import msgspec


class Checked(msgspec.Struct, frozen=True):
    """One model's row: tiny random models of its layout, against transformers and llama.cpp's own converter."""

    model: str
    architecture: str
    """The name in config.json."""
    gguf: str
    """llama.cpp's name of the architecture."""
    logits: float
    """Largest difference of a logit to transformers', over 64 positions; greedy text was equal."""
    lora: float | None
    """The same with a LoRA on every linear layer merged; null where none is."""
    converter: str
    """Against llama.cpp's converter: "same" keys, tensors and bytes, what differs, or "" where it wasn't compared."""
    speed: dict[str, float]
    """Quantization -> the processor's seconds per byte of converting to it, as a ratio to Llama's in the same run."""
    tokenizer: str
    """The tokenizer it comes with, and what that was proved on."""


@cache
def checked() -> tuple[Checked, ...]:
    """All rows."""
    return tuple(msgspec.json.decode((files(__package__) / "checked.json").read_bytes(), type=list[Checked]))
