"""How a budget of bits was spent, as a manifest publishes it."""

from __future__ import annotations

import msgspec


class Candidate(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An allocation that was tried: its file's bytes, and its mean KL divergence on held-out calibration tokens, nats."""

    name: str
    size: int
    kld: float
    kept: bool = False


class Allocation(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The manifest's ``allocation``: what was asked for, what was tried, and the type that each tensor got."""

    asked: str
    """The budget as it was given, such as ``bpw 4.5``; or the recipe that was read."""
    bits: float
    """Bits per weight of all that is quantized."""
    types: dict[str, str]
    """Of every tensor that is quantized, by GGUF name."""
    rounding: str = "nearest"
    """``feedback`` where the error of a column was spread over those behind it (GPTQ), else ``nearest``."""
    strength: float = 0.0
    """How much of an error was passed on, of 1."""
    sensitivity: dict[str, float] = {}
    """What a tensor's rounding adds to the KL divergence in its type, as it was predicted, nats."""
    tokens: int = 0
    """Held-out calibration tokens that the candidates were measured on."""
    candidates: list[Candidate] = []
