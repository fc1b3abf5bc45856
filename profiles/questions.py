"""The questions that this machine answers through libraries: psutil, NVML, sysctl, Windows' kernel and registry."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import psutil

from edgekit.profiles.machine import Unavailable

_CPU_SET: Final = struct.Struct("<IIIHBBBBB")
"""The beginning of SYSTEM_CPU_SET_INFORMATION, winnt.h: size, type, id, group, CPU, core, cache, node, class."""
_TEXTS: Final = {"machdep.cpu.brand_string", "hw.model"}
"""The values of macOS's kernel that aren't numbers."""


def questions(extra: Mapping[str, Callable[[str], Any]]) -> dict[str, Callable[[str], Any]]:
    """All of them by their first word; ``extra`` adds those that other rooms answer, such as ``runtimes``."""
    return {
        "affinity": affinity,
        "memory": memory,
        "core-counts": core_counts,
        "battery": battery,
        "temperatures": temperatures,
        "nvml": nvml,
        "sysctl": sysctl,
        "registry": registry,
        "processor-features": processor_features,
        "cpu-sets": cpu_sets,
        **extra,
    }


def affinity(_: str = "") -> list[int]:
    """The CPUs that this process may run on: the kernel's own answer, cpusets included."""
    if sys.platform == "darwin":
        raise Unavailable("macOS ties no process to CPUs")
    return sorted(psutil.Process().cpu_affinity() or [])


def memory(_: str = "") -> dict[str, int]:
    """Bytes: total, and what could be taken without swapping."""
    found = psutil.virtual_memory()
    return {"total": found.total, "available": found.available}


def core_counts(_: str = "") -> dict[str, int | None]:
    """Physical and logical CPUs, for systems that tell no more."""
    return {"physical": psutil.cpu_count(logical=False), "logical": psutil.cpu_count()}


def battery(_: str = "") -> dict[str, Any] | None:
    """Charge in percent and whether the mains are plugged in; None without a battery."""
    if not hasattr(psutil, "sensors_battery"):
        raise Unavailable("psutil can't tell on this system")
    found = psutil.sensors_battery()
    return None if found is None else {"percent": found.percent, "plugged": found.power_plugged}


def temperatures(_: str = "") -> list[dict[str, Any]]:
    """Sensors with their current, high and critical degrees Celsius."""
    if not hasattr(psutil, "sensors_temperatures"):
        raise Unavailable("psutil can't tell on this system")
    return [
        {"sensor": f"{chip} {one.label}".strip(), "current": one.current, "high": one.high, "critical": one.critical}
        for chip, sensors in psutil.sensors_temperatures().items()
        for one in sensors
    ]  # fmt: skip


def nvml(_: str = "") -> dict[str, Any]:
    """NVIDIA's driver and GPUs."""
    try:
        import pynvml
    except ImportError as error:
        raise Unavailable("nvidia-ml-py isn't installed: pip install 'edgekit[nvidia]'") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound as error:
        raise Unavailable("no NVIDIA driver is installed") from error
    try:
        count = pynvml.nvmlDeviceGetCount()
        return {
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "gpus": [_gpu(pynvml, i) for i in range(count)],
        }
    finally:
        pynvml.nvmlShutdown()


def _gpu(nv: Any, index: int) -> dict[str, Any]:
    """One GPU; what its driver can't tell is left out, as a Jetson's memory is."""
    handle = nv.nvmlDeviceGetHandleByIndex(index)
    found: dict[str, Any] = {"name": nv.nvmlDeviceGetName(handle)}
    asked: dict[str, Callable[[], Any]] = {
        "total": lambda: int(nv.nvmlDeviceGetMemoryInfo(handle).total),
        "free": lambda: int(nv.nvmlDeviceGetMemoryInfo(handle).free),
        "capability": lambda: ".".join(map(str, nv.nvmlDeviceGetCudaComputeCapability(handle))),
        "utilization": lambda: int(nv.nvmlDeviceGetUtilizationRates(handle).gpu),
        "memory_clock_mhz": lambda: int(nv.nvmlDeviceGetMaxClockInfo(handle, nv.NVML_CLOCK_MEM)),
        "memory_bus_bits": lambda: int(nv.nvmlDeviceGetMemoryBusWidth(handle)),
        "address": lambda: nv.nvmlDeviceGetPciInfo(handle).busId,
    }
    for key, ask in asked.items():
        try:
            found[key] = ask()
        except nv.NVMLError as error:
            found[f"no_{key}"] = str(error)
    return found


def sysctl(name: str) -> int | str:
    """A value of macOS's kernel, a number or a text."""
    if sys.platform != "darwin":
        raise Unavailable("only macOS has it")
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_size_t(0)
    if libc.sysctlbyname(name.encode(), None, ctypes.byref(size), None, 0):
        raise Unavailable(f"sysctl {name}: {os.strerror(ctypes.get_errno())}")
    buffer = ctypes.create_string_buffer(size.value)
    if libc.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, 0):
        raise Unavailable(f"sysctl {name}: {os.strerror(ctypes.get_errno())}")
    data = buffer.raw[: size.value]
    if name in _TEXTS:
        return data.rstrip(b"\0").decode("utf-8", "replace")
    return int.from_bytes(data, "little")


def registry(place: str) -> str:
    """A text under HKEY_LOCAL_MACHINE: key, then the value's name."""
    if sys.platform != "win32":
        raise Unavailable("only Windows has it")
    import winreg

    key, _, name = place.rpartition(" ")
    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
        return str(winreg.QueryValueEx(opened, name)[0])


def processor_features(_: str = "") -> list[int]:
    """The numbers of all features that IsProcessorFeaturePresent confirms."""
    kernel = _kernel32()
    return [number for number in range(96) if kernel.IsProcessorFeaturePresent(number)]


def cpu_sets(_: str = "") -> list[dict[str, int]]:
    """Every logical CPU with its core and efficiency class; a higher class is faster."""
    kernel = _kernel32()
    needed = ctypes.c_ulong(0)
    kernel.GetSystemCpuSetInformation(None, 0, ctypes.byref(needed), None, 0)
    buffer = ctypes.create_string_buffer(needed.value)
    if not kernel.GetSystemCpuSetInformation(buffer, needed, ctypes.byref(needed), None, 0):
        raise Unavailable("GetSystemCpuSetInformation failed")
    return parse_cpu_sets(buffer.raw[: needed.value])


def parse_cpu_sets(data: bytes) -> list[dict[str, int]]:
    """Windows' array of SYSTEM_CPU_SET_INFORMATION; each says its own size."""
    found, position = [], 0
    while position + _CPU_SET.size <= len(data):
        size, _, _, group, cpu, core, _, _, kind = _CPU_SET.unpack_from(data, position)
        if size < _CPU_SET.size:
            raise Unavailable(f"a CPU set of {size} bytes")
        found.append({"cpu": 64 * group + cpu, "core": 64 * group + core, "efficiency_class": kind})
        position += size
    return found


def _kernel32() -> Any:
    if sys.platform != "win32":
        raise Unavailable("only Windows has it")
    return ctypes.windll.kernel32
