"""Windows: the registry, and what the kernel says of its processors."""

from __future__ import annotations

from typing import Any, Final

from edgekit.profiles.cores import Core
from edgekit.profiles.machine import Machine, Unavailable

FEATURES: Final = {
    17: "SSE3", 39: "AVX", 40: "AVX2", 41: "AVX-512", 19: "NEON", 43: "dotprod", 46: "SVE", 66: "i8mm", 68: "BF16",
}  # fmt: skip
"""PF_* numbers of IsProcessorFeaturePresent, winnt.h, by our words."""

PROCESSOR: Final = r"registry HARDWARE\DESCRIPTION\System\CentralProcessor\0 ProcessorNameString"
MODEL: Final = r"registry HARDWARE\DESCRIPTION\System\BIOS SystemProductName"


def cpu_name(machine: Machine) -> str:
    """As the maker calls it."""
    return " ".join(str(machine.ask(PROCESSOR)).split())


def simd(machine: Machine) -> list[str]:
    """Instruction sets that matter for matrices; Windows has no call that tells of VNNI and AMX."""
    present = set(machine.ask("processor-features"))
    found = [word for number, word in FEATURES.items() if number in present and word != "SSE3"]
    if not present:
        raise Unavailable("IsProcessorFeaturePresent knows none of them")
    return found


def cores(machine: Machine) -> list[Core]:
    """Every logical CPU; a core of the highest efficiency class is a fast one (GetSystemCpuSetInformation)."""
    sets: list[dict[str, Any]] = machine.ask("cpu-sets")
    if not sets:
        raise Unavailable("Windows lists no CPU sets")
    best = max(int(one["efficiency_class"]) for one in sets)
    return [Core(int(one["cpu"]), int(one["core"]), 0, int(one["efficiency_class"]) == best) for one in sets]


def board(machine: Machine) -> str | None:
    """The computer's model."""
    try:
        return str(machine.ask(MODEL)).strip() or None
    except Unavailable:
        return None
