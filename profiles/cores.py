"""CPUs, cores and kinds of cores: the arithmetic that every platform shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Core:
    """A logical CPU: its number, the number of its physical core, its socket, and whether that core is a fast one."""

    cpu: int
    core: int
    package: int
    fast: bool


@dataclass(frozen=True)
class Counts:
    """Physical cores of all kinds, fast and other ones, logical CPUs, and sockets."""

    physical: int
    performance: int
    efficiency: int
    logical: int
    sockets: int


def count(cores: Sequence[Core], allowed: Iterable[int] | None = None) -> Counts:
    """Counts of all CPUs, or of those that are allowed."""
    keep = None if allowed is None else set(allowed)
    chosen = [core for core in cores if keep is None or core.cpu in keep]
    physical = {(core.package, core.core) for core in chosen}
    fast = {(core.package, core.core) for core in chosen if core.fast}
    return Counts(
        len(physical), len(fast), len(physical - fast), len(chosen), len({core.package for core in chosen})
    )
