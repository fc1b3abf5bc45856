"""What ``--quant auto`` may spend: bits per weight, bytes, or a loss that must not be passed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from edgekit.errors import InputError
from edgekit.units import UNITS

AUTO: Final = "AUTO"
"""The quantization whose types are chosen tensor by tensor."""
_SIZES: Final = {unit.upper(): value for unit, value in UNITS.items()} | {"K": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Budget:
    """One of three: bits per weight over all weights, bytes of all files, or mean KL divergence in nats."""

    bpw: float | None = None
    max_size: int | None = None
    max_kld: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.bpw, self.max_size, self.max_kld) if value is not None]
        if len(given) != 1:
            raise InputError(
                "auto takes one budget", found=f"{len(given)} of them", expected="bpw, max-size or max-kld"
            )
        if not (math.isfinite(given[0]) and given[0] > 0):
            raise InputError("a budget is above zero", found=given[0], expected="such as --bpw 4.5")

    @property
    def asked(self) -> str:
        """As a person would write it."""
        if self.bpw is not None:
            return f"bpw <= {self.bpw:g}"
        if self.max_size is not None:
            return f"size <= {self.max_size:,} bytes"
        return f"kld <= {self.max_kld:g}"


def parse_bytes(text: str) -> int:
    """Bytes from ``2.1GB``, ``500M``, ``64KiB`` or ``4788768``; ``InputError`` for anything else."""
    stripped = text.strip().upper().replace(",", "").replace("_", "")
    number = stripped.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = stripped[len(number) :].strip()
    try:
        value = float(number) * _SIZES[unit or "B"]
    except (ValueError, KeyError):
        value = math.nan
    if not (math.isfinite(value) and value >= 1):
        raise InputError("can't read the size", found=text[:100], expected="such as 2.1GB, 500M or 4788768")
    return int(value)
