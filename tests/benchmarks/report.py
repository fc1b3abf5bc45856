"""Medians, ratios, markdown tables, and the machine's name."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

HEADING = "## Results"
PACKAGES = ("edgekit", "llama-cpp-python", "numpy", "torch", "transformers", "peft", "gguf")


def spread(values: Sequence[float], digits: int = 1, scale: float = 1.0) -> str:
    """The median, and in brackets the smallest and the largest."""
    scaled = [value / scale for value in values]
    middle = f"{median(scaled):,.{digits}f}"
    if len(scaled) == 1:
        return middle
    return f"{middle} ({min(scaled):,.{digits}f}–{max(scaled):,.{digits}f})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours / theirs for each pair: the two runs of a pair are neighbours in time."""
    return [our / their for our, their in zip(ours, theirs, strict=True)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table, the first column text and the others numbers."""
    lines = [header, [":--"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(threads: int) -> str:
    """CPU, cores, memory, system and versions, one paragraph."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return (
        f"Machine: {_cpu()}, {os.cpu_count()} cores, {memory:.0f} GiB RAM, {platform.system()} "
        f"{platform.release().split('-')[0]} {platform.machine()}; {threads} threads, "
        f"load average {os.getloadavg()[0]:.1f} at the start. "
        f"Python {platform.python_version()}, {found}."
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    fields = dict(
        line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines() if ":" in line
    )
    words = {key.strip(): value.strip() for key, value in fields.items()}
    name = words.get("model name", platform.processor())
    numbers = "/".join(words.get(key, "?") for key in ("cpu family", "model", "stepping"))
    known = ("amx_int8", "avx512_vnni", "avx512f", "avx2")
    flags = [flag for flag in known if flag in words.get("flags", "").split()]
    return f"{name} (family/model/stepping {numbers}; {', '.join(flags)})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def put(file: Path, section: str) -> None:
    """Write the section; in a file that has one already (the last of the file), replace it."""
    before = file.read_text().split(f"{HEADING}\n")[0] if file.exists() else ""
    file.write_text(before + section)
