"""The device that a bundle was built for, as its manifest can hold it."""

from __future__ import annotations

import msgspec


class Intended(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What tells whether another device will do; bytes and tokens a second."""

    name: str
    architecture: str
    runs_on: str
    """CPU, or the GPU's API: cuda, metal, …"""
    instruction_sets: list[str]
    context: int
    memory: int
    """What the model was predicted to take there with that context."""
    min_tps: float
    """Decode speed that it was to reach."""
    decode_tps: float
    """Decode speed that it was predicted to reach there."""
