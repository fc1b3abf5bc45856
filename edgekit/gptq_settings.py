"""What a GPTQ or AWQ quantization is asked for beside its bits."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from edgekit.errors import InputError

BITS: Final = {"gptq": {"INT4": 4, "INT8": 8, "INT3": 3, "INT2": 2}, "awq": {"INT4": 4}}
"""Bits by the names that quantizations have, the usual first."""


class GptqSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How weights are grouped and rounded, and how much of the calibration data is read."""

    group_size: Literal[-1, 16, 32, 64, 128] = 128
    """Weights that share a scale; -1: a whole row."""
    act_order: bool = False
    """GPTQ's order by the size of activations: better, and slower to run."""
    symmetric: bool | None = None
    """Unset: GPTQ is, AWQ isn't."""
    samples: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 256
    """Sequences of the calibration data at most."""
    length: Annotated[int, msgspec.Meta(ge=16, le=1 << 17)] = 512
    """Tokens of a sequence at most."""


def bits(name: str, form: str) -> int:
    """Of a quantization by name; ``InputError`` for one that a format hasn't."""
    found = BITS[form].get(name.upper())
    if found is None:
        raise InputError(
            f"no {form.upper()} model can be built so", found=name, expected=", ".join(BITS[form])
        )
    return found
