"""How many threads: performance cores, physical ones, those that affinity and quota leave, no more than pay."""

from __future__ import annotations

from typing import Final

from edgekit.profiles.structs import Cpu

PIECE: Final = 1 << 20
"""Bytes of weights a token below which another thread costs more in waiting than it saves in reading. Two threads
pay even at 0.4 MB (measured)."""


def generation_threads(cpu: Cpu, token_bytes: int) -> tuple[int, list[str]]:
    """Threads for one token at a time, and why."""
    fast = cpu.usable_performance or 0
    reasons = []
    if fast:
        threads = fast
        kind = "performance core" if cpu.efficiency else "physical core"
        text = f"{_count(threads, kind)}"
        if cpu.efficiency:
            text += f", not its {_count(cpu.efficiency, 'efficiency core')}: the slowest thread sets the pace"
        elif (cpu.usable or 0) > fast:
            text += f", not {cpu.usable} logical ones: two threads of a core share what decodes"
        reasons.append(text)
    else:
        threads = cpu.usable_physical or cpu.usable or 1
        reasons.append(f"{_count(threads, 'core')} that this process may use, none of them a performance core"
                       if cpu.usable_physical else f"{threads}: the cores are unknown")  # fmt: skip
    if cpu.performance and fast < cpu.performance and cpu.usable is not None:
        reasons.append(f"this process may run on {cpu.usable} of {cpu.logical} logical CPUs")
    if cpu.sockets > 1 and threads > (one := -(-threads // cpu.sockets)):
        threads = one
        reasons.append(
            f"one of {cpu.sockets} sockets: weights are read across the link between them otherwise"
        )
    if cpu.quota is not None and threads > cpu.quota:
        threads = max(1, int(cpu.quota))
        reasons.append(f"the container's limit of {cpu.quota:g} CPUs: more threads would be stopped in turns")
    if threads > (pays := max(2, token_bytes // PIECE)):
        threads = pays
        reasons.append(
            f"no more than {pays}: a token of {token_bytes / 1e6:.1f} MB is too little work to share"
        )
    return threads, reasons


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
