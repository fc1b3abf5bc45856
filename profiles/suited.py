"""Whether a machine is like the one that a bundle was built for. Pure; what can't run at all is refused elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edgekit.intended import Intended
from edgekit.profiles import rates
from edgekit.profiles.devices import Device
from edgekit.profiles.offload import gpu_room, ram_room
from edgekit.profiles.planning import Row
from edgekit.profiles.structs import Gpu, Hardware

_SAME: Final = {"arm64": "aarch64", "amd64": "x86_64", "x64": "x86_64"}
_MATTERING: Final = frozenset({*rates.PROMPT, *rates.SLOWER})


def intended(device: Device, row: Row) -> Intended:
    """What a bundle of this row remembers of its target."""
    return Intended(
        name=device.name,
        architecture=device.architecture,
        runs_on=device.gpu.api if device.gpu else "CPU",
        instruction_sets=list(device.cpu.simd),
        context=row.context,
        memory=row.memory_bytes[row.context],
        min_tps=device.min_tps,
        decode_tps=round(row.decode_tps, 2),
    )


def unsuited(meant: Intended, hardware: Hardware, decode_tps: float | None = None) -> str | None:
    """Why a bundle wasn't meant for this machine, as a warning says it; None where it will do.

    ``decode_tps`` is what the picker predicts here. A faster GPU or a larger machine is no reason; neither is what
    a probe couldn't find out.
    """
    reasons = [*_memory(meant, hardware), *_gpu(meant, hardware), *_processor(meant, hardware)]
    if decode_tps is not None and decode_tps < meant.min_tps:
        reasons.append(
            f"{decode_tps:.1f} tok/s are predicted here, and at least {meant.min_tps:g} were wanted"
        )
    return f"built for {meant.name}: {'; '.join(reasons)}" if reasons else None


def _usable(hardware: Hardware) -> list[Gpu]:
    return [gpu for gpu in hardware.gpus if gpu.device is not None]


def _memory(meant: Intended, hardware: Hardware) -> Iterator[str]:
    """A GPU's own memory will do as well as main memory."""
    rooms = [gpu_room(gpu) for gpu in _usable(hardware) if not gpu.unified]
    ram = ram_room(hardware.memory.available)
    if ram is None or max(ram, *rooms, 0) >= meant.memory:
        return
    yield (
        f"it takes {meant.memory / 1e9:.2f} GB with a context of {meant.context:,}, and "
        f"{max(ram, *rooms, 0) / 1e9:.2f} GB can be used here"
    )


def _gpu(meant: Intended, hardware: Hardware) -> Iterator[str]:
    """Without the GPU that it was to run on, it runs on the processor."""
    if meant.runs_on == "CPU" or any(not gpu.integrated for gpu in _usable(hardware)):
        return
    there = (
        f"the installed llama.cpp doesn't use {hardware.gpus[0].name}"
        if hardware.gpus
        else "there is none here"
    )
    yield f"it was to run on a GPU ({meant.runs_on}), and {there}"


def _processor(meant: Intended, hardware: Hardware) -> Iterator[str]:
    """On a GPU the processor matters little."""
    if any(not gpu.integrated for gpu in _usable(hardware)):
        return
    arch = hardware.cpu.arch.lower()
    arch = _SAME.get(arch, arch)
    if arch != meant.architecture:
        yield f"its speed was predicted for {meant.architecture}, and this is {arch}"
        return
    here = hardware.cpu.simd
    missing = [
        one for one in meant.instruction_sets if one in _MATTERING and here is not None and one not in here
    ]
    if missing:
        yield f"this processor has no {', '.join(missing)}"
