"""What this machine is and what of it this process may use: every probe on its own, none of them fatal."""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.profiles import gpus, limits, linux, macos, windows
from edgekit.profiles.cores import Core, Counts, count
from edgekit.profiles.machine import Machine, Unavailable, attempt
from edgekit.profiles.structs import Cpu, Hardware, Memory, Power, Runtime

__all__ = ["Hardware", "probe", "threads"]


def probe(machine: Machine, *, bandwidth: bool = True) -> Hardware:
    """Everything; ``bandwidth`` also measures how fast memory is read, which takes 0.3 s unless it is remembered."""
    unknown: dict[str, str] = {}
    groups = _groups(machine, unknown)
    cpu = _cpu(machine, groups, unknown)
    memory = _memory(machine, groups, unknown)
    if bandwidth:
        question = f"bandwidth {threads(cpu)}"
        measured = attempt(unknown, "memory.bandwidth", lambda: [float(one) for one in machine.ask(question)])
        main, cached = (*(measured or ()), None, None)[:2]
        memory = msgspec.structs.replace(memory, bandwidth=main, cached_bandwidth=cached)
    board = _board(machine)
    runtimes = attempt(
        unknown,
        "runtimes",
        lambda: msgspec.convert(machine.ask(_about_runtimes(machine)), list[Runtime]),
    )
    place = gpus.Place(cpu.name, board, memory.total, memory.available)
    found = gpus.find(machine, place, runtimes or [], unknown)
    return Hardware(
        system=machine.system,
        board=board,
        surroundings=linux.surroundings(machine) if machine.system == "Linux" else None,
        cpu=cpu,
        memory=memory,
        gpus=[gpus.with_free(gpu, memory.available) for gpu in found],
        runtimes=runtimes or [],
        power=_power(machine, unknown),
        unknown=unknown,
    )


def threads(cpu: Cpu) -> int:
    """Threads that this process can keep busy at full speed: performance cores, no more than its CPUs or its quota."""
    fast = cpu.usable_performance or cpu.usable_physical or cpu.usable or 1
    return max(1, min(fast, int(cpu.quota) if cpu.quota is not None else fast))


def _about_runtimes(machine: Machine) -> str:
    """CUDA itself is only asked for memory, which costs a context, where NVML can't tell: on Jetsons."""
    try:
        known = all(one.get("total") for one in machine.ask("nvml")["gpus"])
    except (Unavailable, LookupError, TypeError, AttributeError):
        known = False
    return "runtimes" if known else "runtimes cuda-memory"


def _groups(machine: Machine, unknown: dict[str, str]) -> dict[str, limits.Group]:
    if machine.system != "Linux":
        return {}
    return attempt(unknown, "limits", lambda: limits.groups(machine)) or {}


def _cpu(machine: Machine, groups: dict[str, limits.Group], unknown: dict[str, str]) -> Cpu:
    platform: Any = {"Linux": linux, "Darwin": macos, "Windows": windows}.get(machine.system, linux)
    cores = _cores(machine, unknown)
    counts = _counts(machine, cores, unknown)
    allowed = _allowed(machine, groups, unknown)
    usable = count(cores, allowed) if cores and allowed is not None else counts
    if usable is not None and not usable.logical:
        unknown["cpu.usable"] = f"none of the CPUs {allowed} is among those that are online"
        usable = counts
    fast = next((core.cpu for core in cores if core.fast), 0)
    caches = attempt(
        unknown,
        "cpu.caches",
        lambda: linux.caches(machine, fast) if machine.system == "Linux" else _caches(machine),
    )
    group = groups.get("cpu")
    return Cpu(
        name=attempt(unknown, "cpu.name", lambda: str(platform.cpu_name(machine))),
        arch=machine.arch,
        physical=counts.physical if counts else None,
        performance=counts.performance if counts else None,
        efficiency=counts.efficiency if counts else None,
        logical=counts.logical if counts else None,
        sockets=counts.sockets if counts else 1,
        usable=usable.logical if usable else None,
        usable_performance=usable.performance if usable else None,
        usable_physical=usable.physical if usable else None,
        quota=attempt(unknown, "cpu.quota", lambda: limits.cpu_quota(machine, group)) if group else None,
        simd=attempt(unknown, "cpu.simd", lambda: list(platform.simd(machine))),
        **(caches or {}),
    )


def _cores(machine: Machine, unknown: dict[str, str]) -> list[Core]:
    if machine.system == "Darwin":
        return []
    platform: Any = windows if machine.system == "Windows" else linux
    return attempt(unknown, "cpu.cores", lambda: list(platform.cores(machine))) or []


def _counts(machine: Machine, cores: list[Core], unknown: dict[str, str]) -> Counts | None:
    """Counts of the whole machine: by core, else as macOS or psutil says."""
    if cores:
        return count(cores)
    if machine.system == "Darwin":
        return attempt(unknown, "cpu.cores", lambda: macos.counts(machine))

    def plain() -> Counts:
        answer = machine.ask("core-counts")
        logical = int(answer["logical"])
        physical = int(answer["physical"] or logical)
        return Counts(physical, physical, 0, logical, 1)

    return attempt(unknown, "cpu.counts", plain)


def _allowed(machine: Machine, groups: dict[str, limits.Group], unknown: dict[str, str]) -> set[int] | None:
    """The CPUs that affinity and cpuset leave; None where neither is known."""
    why: dict[str, str] = {}
    found = attempt(why, "cpu.affinity", lambda: {int(cpu) for cpu in machine.ask("affinity")})
    if machine.system == "Linux":
        unknown |= why
    if group := groups.get("cpuset"):
        listed = attempt(unknown, "cpu.cpuset", lambda: limits.cpuset(machine, group))
        if listed is not None:
            found = set(listed) if found is None else found & set(listed)
    return found or None


def _caches(machine: Machine) -> dict[str, int]:
    if machine.system == "Darwin":
        return macos.caches(machine)
    raise Unavailable("not asked for on this system")


def _memory(machine: Machine, groups: dict[str, limits.Group], unknown: dict[str, str]) -> Memory:
    answer = attempt(
        unknown, "memory", lambda: {key: int(machine.ask("memory")[key]) for key in ("total", "available")}
    )
    total, available = (answer["total"], answer["available"]) if answer else (None, None)
    group = groups.get("memory")
    limited = attempt(unknown, "memory.limit", lambda: limits.memory_limit(machine, group)) if group else None
    if not limited:
        return Memory(total=total, available=available)
    limit, left = limited
    return Memory(
        total=total,
        available=left if available is None else min(available, left),
        limit=limit if total is None or limit < total else None,
    )


def _board(machine: Machine) -> str | None:
    if machine.system == "Linux":
        return linux.board(machine)
    if machine.system == "Windows":
        return windows.board(machine)
    return attempt({}, "board", lambda: str(macos.sysctl(machine, "hw.model")))


def _power(machine: Machine, unknown: dict[str, str]) -> Power:
    def source() -> tuple[str, float | None]:
        battery = machine.ask("battery")
        if battery is None or battery["plugged"] is None or battery["plugged"]:
            return "mains", battery and float(battery["percent"])
        return "battery", float(battery["percent"])

    def hottest() -> tuple[float, float | None] | None:
        sensors = [one for one in machine.ask("temperatures") if one["current"] is not None]
        one = max(sensors, key=lambda sensor: float(sensor["current"]), default=None)
        return one and (float(one["current"]), one["critical"] and float(one["critical"]))

    power = attempt(unknown, "power", source)
    heat = attempt(unknown, "temperature", hottest)
    if heat is None:
        unknown.setdefault("temperature", "no sensor is visible")
    return Power(
        source=power and power[0],
        charge=power and power[1],
        hottest=heat and heat[0],
        critical=heat and heat[1],
    )
