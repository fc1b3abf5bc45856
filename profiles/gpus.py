"""GPUs, from everything that knows of some: NVML, the runtimes' device lists, the PCI bus, Apple's chips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from edgekit.profiles import linux, macos
from edgekit.profiles.machine import Machine, Unavailable, attempt
from edgekit.profiles.structs import Device, Gpu, Runtime

GB: Final = 1e9
NO_DRIVER: Final = "no NVIDIA driver"
APPLE: Final = {
    "M1": 68, "M1 Pro": 205, "M1 Max": 410, "M1 Ultra": 819, "M2": 102, "M2 Pro": 205, "M2 Max": 410,
    "M2 Ultra": 819, "M3": 102, "M3 Pro": 154, "M3 Max": 307, "M3 Ultra": 819, "M4": 120, "M4 Pro": 273,
    "M4 Max": 410, "M5": 153,
}  # fmt: skip
"""GB/s by chip, of the smaller variant where there are two: Apple's technical specifications."""
JETSON: Final = {"Orin Nano": 68, "Orin NX": 102, "AGX Orin": 204, "Xavier NX": 59, "AGX Xavier": 136}
"""GB/s by module: NVIDIA's Jetson modules page."""


@dataclass(frozen=True)
class Place:
    """What is known of the machine around its GPUs."""

    cpu_name: str | None
    board: str | None
    total: int | None
    available: int | None


def find(machine: Machine, place: Place, runtimes: list[Runtime], unknown: dict[str, str]) -> list[Gpu]:
    """All of them, each once."""
    devices = [
        device
        for runtime in runtimes
        if runtime.name == "llama.cpp"
        for device in runtime.devices
        if device.kind in ("gpu", "igpu")
    ]
    found, left = _nvidia(machine, devices, unknown)
    found += [_listed(device, place) for device in left]
    if machine.system == "Darwin" and machine.arch == "arm64" and not found:
        found.append(_apple(machine, place, unknown))
    if machine.system == "Linux":
        found += _unreachable(machine, found)
    if NO_DRIVER in unknown.get("gpus.nvidia", "") and not any(_made_by(gpu, "NVIDIA") for gpu in found):
        del unknown["gpus.nvidia"]  # no driver and no card: nothing that one wants to know
    return found


def _nvidia(
    machine: Machine, devices: list[Device], unknown: dict[str, str]
) -> tuple[list[Gpu], list[Device]]:
    """NVML's GPUs joined with llama.cpp's CUDA devices of the same name, and the devices that are left."""
    left = list(devices)
    try:
        answer: dict[str, Any] = machine.ask("nvml")
    except Unavailable as error:
        if machine.system != "Darwin":
            unknown["gpus.nvidia"] = str(error)
        return [], left
    found = attempt(
        unknown, "gpus.nvidia", lambda: [_nvml_gpu(one, answer["driver"], left) for one in answer["gpus"]]
    )
    return found or [], left


def _nvml_gpu(one: dict[str, Any], driver: str, left: list[Device]) -> Gpu:
    """``left`` loses the device that is this GPU."""
    name = str(one["name"])
    device = next((d for d in left if d.backend.upper() == "CUDA" and _same(d.description, name)), None)
    if device is not None:
        left.remove(device)
    clock, bits = one.get("memory_clock_mhz"), one.get("memory_bus_bits")
    return Gpu(
        name=name,
        api="cuda",
        total=one.get("total") or (device.total if device else None),
        free=one.get("free") if one.get("total") else device.free if device else None,
        bandwidth=clock * 1e6 * 2 * bits / 8 if clock and bits else None,  # two transfers a clock
        capability=one.get("capability"),
        driver=driver,
        busy=one.get("utilization"),
        device=device.name if device else None,
    )


def _same(one: str, other: str) -> bool:
    """CUDA and NVML put NVIDIA before the name or not."""
    return one.removeprefix("NVIDIA ").strip() == other.removeprefix("NVIDIA ").strip()


def _listed(device: Device, place: Place) -> Gpu:
    """A GPU that only llama.cpp tells of."""
    api = {"metal": "metal", "mtl": "metal", "cuda": "cuda", "rocm": "rocm", "hip": "rocm"}.get(
        device.backend.lower(), device.backend.lower()
    )
    jetson = _known(JETSON, place.board) if api == "cuda" else None
    apple = _known(APPLE, place.cpu_name) if api == "metal" else None
    return Gpu(
        name=device.description or device.name,
        api=api,
        total=device.total or None,
        free=device.free,
        unified=api == "metal" or device.kind == "igpu" or jetson is not None,
        integrated=device.kind == "igpu" and jetson is None,
        bandwidth=jetson or apple,
        device=device.name,
    )


def _known(table: dict[str, int], text: str | None) -> float | None:
    """The longest entry that the text holds."""
    names = [name for name in table if text and name in text]
    return table[max(names, key=len)] * GB if names else None


def _apple(machine: Machine, place: Place, unknown: dict[str, str]) -> Gpu:
    """The GPU of a chip, where no installed llama.cpp shows it."""
    total = None
    if place.total is not None:
        total = attempt(unknown, "gpus.metal", lambda: macos.working_set(machine, place.total or 0))
    return Gpu(
        name=place.cpu_name or "Apple GPU",
        api="metal",
        total=total,
        free=total,
        unified=True,
        bandwidth=_known(APPLE, place.cpu_name),
    )


def _unreachable(machine: Machine, known: list[Gpu]) -> list[Gpu]:
    """Cards on the PCI bus that nothing else told of."""
    cards = attempt({}, "pci", lambda: linux.display_adapters(machine)) or []
    found = []
    for vendor, address in cards:
        if any(_made_by(gpu, vendor) for gpu in known):
            continue
        found.append(Gpu(name=f"{vendor} graphics at {address}", integrated=vendor == "Intel"))
    return found


def _made_by(gpu: Gpu, vendor: str) -> bool:
    words = {"NVIDIA": ("nvidia", "geforce", "rtx"), "AMD": ("amd", "radeon"), "Intel": ("intel", "arc")}[
        vendor
    ]
    return any(word in gpu.name.lower() for word in words) or (vendor == "NVIDIA" and gpu.api == "cuda")


def with_free(gpu: Gpu, available: int | None) -> Gpu:
    """Unified memory is one memory: the GPU can't have more than is available."""
    if not gpu.unified or available is None:
        return gpu
    free = available if gpu.free is None else min(gpu.free, available)
    return msgspec.structs.replace(gpu, free=free)
