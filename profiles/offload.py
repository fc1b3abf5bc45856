"""What goes onto GPUs: whole models where they fit, else as many layers as do, with room left for others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edgekit.profiles.predict import Memory, Shape
from edgekit.profiles.structs import Gpu

CONTEXT: Final = {"cuda": 450 << 20, "rocm": 450 << 20, "vulkan": 200 << 20}
"""Bytes that a driver takes for a process on each GPU."""
BUSY: Final = 50
"""Percent of utilization from which a GPU counts as shared with someone."""


@dataclass(frozen=True)
class Offload:
    """Layers on the GPUs (one more than the model has: the output too), their bytes there, and why."""

    layers: int
    nbytes: int
    reasons: tuple[str, ...]


def names(gpus: Sequence[Gpu]) -> str:
    """``RTX 3060``, ``2 x RTX 3090``, ``RTX 4090 and RTX 3060``."""
    counts = Counter(gpu.name for gpu in gpus)
    return " and ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())


def gpu_room(gpu: Gpu) -> int:
    """Bytes that may be used: what is free, less a twentieth of all (256 MiB at least), less the driver's own."""
    free, total = gpu.free or 0, gpu.total or gpu.free or 0
    return max(0, free - max(256 << 20, total // 20) - CONTEXT.get(gpu.api or "", 0))


def ram_room(available: int | None) -> int | None:
    """Bytes of main memory that may be used: a tenth of what is available stays free, 256 MiB at least."""
    return None if available is None else max(0, available - max(256 << 20, available // 10))


def offload(shape: Shape, memory: Memory, gpus: Sequence[Gpu], ram: int | None) -> Offload:
    """How much fits. ``ram``: room in main memory, which unified GPUs share."""
    rooms = [gpu_room(gpu) for gpu in gpus]
    if all(gpu.unified for gpu in gpus) and ram is not None:
        rooms = [min(sum(rooms), ram)]
    room = sum(rooms) - memory.compute * len(rooms)
    output = min(
        memory.weights // 2, shape.token_bytes * shape.n_vocab * shape.width // max(1, shape.token_weights)
    )
    each = max(1, (memory.weights - output + memory.kv_cache) // max(1, shape.layers))
    place = names(gpus)
    reasons = [reason for gpu in gpus for reason in _shared(gpu)]
    if each * shape.layers + output <= room:
        reasons.insert(0, f"all {shape.layers} layers fit on {place}")
        if any(gpu.unified for gpu in gpus):
            reasons.append("it shares main memory: the model is there once, and the system keeps its part")
        return Offload(shape.layers + 1, each * shape.layers + output + memory.compute, tuple(reasons))
    layers = max(0, min(shape.layers, room // each))
    if layers:
        some = (
            f"all {layers} layers but the output"
            if layers == shape.layers
            else f"{layers} of {shape.layers} layers"
        )
        room_text = f"{sum(rooms) / 1e9:.1f} GB can be used"
        reasons.insert(0, f"{some} fit on {place}, where {room_text}; the rest runs on the CPU")
    return Offload(layers, each * layers + (memory.compute if layers else 0), tuple(reasons))


def _shared(gpu: Gpu) -> list[str]:
    reasons = []
    if not gpu.unified and gpu.total and gpu.free is not None and gpu.free < 0.8 * gpu.total:
        reasons.append(f"other programs hold {(gpu.total - gpu.free) / 1e9:.1f} GB of {gpu.name}")
    if gpu.busy is not None and gpu.busy >= BUSY:
        reasons.append(f"{gpu.name} is busy ({gpu.busy}%): predicted at what is left of it")
    return reasons
