"""Linux: processors, caches, instruction sets and boards from /proc and /sys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgekit.profiles.cores import Core
from edgekit.profiles.machine import Machine, Unavailable, number, span

CPUS: Final = "/sys/devices/system/cpu"

FLAGS: Final = {
    "avx": "AVX", "avx2": "AVX2", "f16c": "F16C", "fma": "FMA", "avx_vnni": "AVX-VNNI", "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI", "avx512_bf16": "AVX-512 BF16", "avx512_fp16": "AVX-512 FP16",
    "amx_int8": "AMX INT8", "amx_bf16": "AMX BF16",
    "neon": "NEON", "asimd": "NEON", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "BF16", "sve": "SVE",
    "sve2": "SVE2", "sme": "SME",
}  # fmt: skip
"""The kernel's words in /proc/cpuinfo by ours."""

PARTS: Final[Mapping[tuple[int, int], str]] = {
    (0x41, 0xD03): "Cortex-A53", (0x41, 0xD05): "Cortex-A55", (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72", (0x41, 0xD0B): "Cortex-A76", (0x41, 0xD0C): "Neoverse N1",
    (0x41, 0xD40): "Neoverse V1", (0x41, 0xD42): "Cortex-A78AE", (0x41, 0xD49): "Neoverse N2",
    (0x41, 0xD4F): "Neoverse V2", (0x51, 0x001): "Oryon", (0x61, 0x022): "Apple M1",
}  # fmt: skip
"""ARM's implementer and part numbers, where /proc/cpuinfo has no name: https://github.com/bp0/armids."""

_SLOWER: Final = 0.75
"""A core with less than this share of the fastest one's speed isn't one of the fast ones: favourite cores of one kind
differ by a tenth, compact and little cores by a third or more."""


def cpuinfo(machine: Machine) -> dict[str, str]:
    """The first CPU's lines of /proc/cpuinfo."""
    found: dict[str, str] = {}
    for line in machine.read("/proc/cpuinfo").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    if not found:
        raise Unavailable("/proc/cpuinfo holds no line with a key and a value")
    return found


def cpu_name(machine: Machine) -> str:
    """What the maker calls it."""
    info = cpuinfo(machine)
    if name := info.get("model name"):
        return " ".join(name.split())
    implementer, part = info.get("CPU implementer"), info.get("CPU part")
    if implementer is None or part is None:
        raise Unavailable("/proc/cpuinfo names no model")
    known = PARTS.get((int(implementer, 16), int(part, 16)))
    return known or f"ARM implementer {implementer}, part {part}"


def simd(machine: Machine) -> list[str]:
    """Instruction sets that matter for matrices."""
    info = cpuinfo(machine)
    words = info.get("flags") or info.get("Features")
    if words is None:
        raise Unavailable("/proc/cpuinfo lists no flags")
    return list(dict.fromkeys(FLAGS[word] for word in words.split() if word in FLAGS))


def cores(machine: Machine) -> list[Core]:
    """Every CPU that is online, with the physical core that it is a thread of and that core's kind."""
    online = span(machine.read(f"{CPUS}/online"))
    slow = _slow(machine, online)
    found = []
    for cpu in online:
        siblings = _siblings(machine, cpu)
        package = _package(machine, cpu)
        found.append(Core(cpu, siblings[0] if siblings else cpu, package, cpu not in slow))
    return found


def _siblings(machine: Machine, cpu: int) -> list[int]:
    folder = f"{CPUS}/cpu{cpu}/topology"
    try:
        return span(machine.read(f"{folder}/thread_siblings_list"))
    except OSError:
        return span(machine.read(f"{folder}/core_cpus_list"))


def _package(machine: Machine, cpu: int) -> int:
    try:
        return number(machine, f"{CPUS}/cpu{cpu}/topology/physical_package_id")
    except OSError:
        return 0


def _slow(machine: Machine, online: list[int]) -> set[int]:
    """CPUs that aren't performance cores: by Intel's own lists, ARM's capacities, or the clocks they reach."""
    for kind in ("cpu_atom", "cpu_lowpower"):
        try:
            machine.read("/sys/devices/cpu_core/cpus")
            listed = span(machine.read(f"/sys/devices/{kind}/cpus"))
        except OSError:
            continue
        fast = span(machine.read("/sys/devices/cpu_core/cpus"))
        return set(online) - set(fast) | set(listed)
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        try:
            speeds = {cpu: number(machine, f"{CPUS}/cpu{cpu}/{name}") for cpu in online}
        except OSError:
            continue
        return {cpu for cpu, speed in speeds.items() if speed < _SLOWER * max(speeds.values())}
    return set()


def caches(machine: Machine, cpu: int) -> dict[str, int]:
    """Bytes of the caches that one CPU uses: l1d, l2, l3."""
    folder = f"{CPUS}/cpu{cpu}/cache"
    found = {}
    for index in machine.names(folder):
        if not index.startswith("index"):
            continue
        kind = machine.read(f"{folder}/{index}/type").strip()
        level = number(machine, f"{folder}/{index}/level")
        if kind != "Instruction" and 1 <= level <= 3:
            found["l1d" if level == 1 else f"l{level}"] = _size(
                machine.read(f"{folder}/{index}/size").strip()
            )
    if not found:
        raise Unavailable(f"{folder} lists no caches")
    return found


def _size(text: str) -> int:
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 1)
    digits = text[:-1] if unit > 1 else text
    if not digits.isdigit():
        raise Unavailable(f"a cache size of {text[:20]!r}")
    return int(digits) * unit


def board(machine: Machine) -> str | None:
    """The device's own name: Raspberry Pi, Jetson, a laptop's model."""
    for path in ("/proc/device-tree/model", "/sys/class/dmi/id/product_name"):
        try:
            text = machine.read(path).strip("\0 \n")
        except OSError:
            continue
        if text:
            return text
    return None


def surroundings(machine: Machine) -> str | None:
    """WSL2 or a container, where limits come from outside."""
    try:
        release = machine.read("/proc/sys/kernel/osrelease")
    except OSError:
        release = ""
    if "microsoft" in release.lower():
        return "WSL2"
    for path, name in (("/.dockerenv", "container"), ("/run/.containerenv", "container")):
        try:
            machine.read(path)
        except OSError:
            continue
        return name
    return None


def display_adapters(machine: Machine) -> list[tuple[str, str]]:
    """(vendor, PCI address) of graphics and compute cards, whether or not anything here can use them."""
    vendors = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
    folder = "/sys/bus/pci/devices"
    found = []
    for address in machine.names(folder):
        kind = machine.read(f"{folder}/{address}/class").strip()
        if kind.startswith(("0x0300", "0x0302", "0x0380")):
            vendor = vendors.get(machine.read(f"{folder}/{address}/vendor").strip())
            if vendor:
                found.append((vendor, address))
    return found
