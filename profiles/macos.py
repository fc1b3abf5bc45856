"""macOS: everything comes from sysctl. https://developer.apple.com/documentation/kernel/1387446-sysctlbyname"""

from __future__ import annotations

from typing import Any, Final

from edgekit.profiles.cores import Counts
from edgekit.profiles.machine import Machine, Unavailable

FEATURES: Final = {
    "hw.optional.neon": "NEON", "hw.optional.AdvSIMD": "NEON", "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm", "hw.optional.arm.FEAT_BF16": "BF16", "hw.optional.arm.FEAT_SME": "SME",
    "hw.optional.avx1_0": "AVX", "hw.optional.avx2_0": "AVX2", "hw.optional.f16c": "F16C",
    "hw.optional.fma": "FMA", "hw.optional.avx512f": "AVX-512", "hw.optional.avx512vnni": "AVX-512 VNNI",
}  # fmt: skip

_SMALL: Final = 36 << 30
"""Bytes of memory up to which Metal's working set is two thirds of it by default, three quarters above."""


def sysctl(machine: Machine, name: str) -> Any:
    """One value, number or text."""
    return machine.ask(f"sysctl {name}")


def _known(machine: Machine, name: str) -> int | None:
    """A number, or None where this Mac has no such name."""
    try:
        return int(sysctl(machine, name))
    except Unavailable:
        return None


def cpu_name(machine: Machine) -> str:
    """Apple M2 Pro, or Intel's name."""
    return str(sysctl(machine, "machdep.cpu.brand_string"))


def counts(machine: Machine) -> Counts:
    """Performance level 0 is the fastest; Intel Macs have no levels."""
    physical = int(sysctl(machine, "hw.physicalcpu"))
    performance = _known(machine, "hw.perflevel0.physicalcpu")
    logical = _known(machine, "hw.logicalcpu")
    fast = performance or physical
    return Counts(physical, fast, physical - fast, logical or physical, 1)


def simd(machine: Machine) -> list[str]:
    """Instruction sets that matter for matrices."""
    found = [word for name, word in FEATURES.items() if _known(machine, name)]
    if not found:
        raise Unavailable("sysctl names no instruction sets")
    return list(dict.fromkeys(found))


def caches(machine: Machine) -> dict[str, int]:
    """Bytes of a fast core's caches."""
    names = {
        "l1d": ("hw.perflevel0.l1dcachesize", "hw.l1dcachesize"),
        "l2": ("hw.perflevel0.l2cachesize", "hw.l2cachesize"),
        "l3": ("hw.l3cachesize",),
    }
    found = {}
    for level, choices in names.items():
        size = next(filter(None, (_known(machine, name) for name in choices)), None)
        if size:
            found[level] = size
    return found


def working_set(machine: Machine, total: int) -> int:
    """Bytes that Metal lets one process keep on the GPU: ``iogpu.wired_limit_mb`` where it was set, else the default.

    Metal's own ``recommendedMaxWorkingSetSize`` comes with llama.cpp's device list; this is for when there is none.
    """
    if wired := _known(machine, "iogpu.wired_limit_mb"):
        return wired << 20
    return total * 2 // 3 if total <= _SMALL else total * 3 // 4
