"""What a machine is, as plain typed values; None is "unknown", and ``Hardware.unknown`` says why."""

from __future__ import annotations

import msgspec


class Cpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The processor, and what of it this process may use."""

    name: str | None = None
    arch: str
    physical: int | None = None
    performance: int | None = None
    """Physical cores of the fastest kind; all of them where there is one kind."""
    efficiency: int | None = None
    logical: int | None = None
    sockets: int = 1
    usable: int | None = None
    """Logical CPUs that affinity and cpuset leave to this process."""
    usable_performance: int | None = None
    """Physical performance cores among them."""
    usable_physical: int | None = None
    quota: float | None = None
    """CPUs' worth of time that a container may take; None without such a limit."""
    simd: list[str] | None = None
    l1d: int | None = None
    l2: int | None = None
    l3: int | None = None
    """Bytes of the caches that a performance core uses."""


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bytes of main memory. ``available``: what this process may still take, limits included."""

    total: int | None = None
    available: int | None = None
    limit: int | None = None
    """A container's limit; None without one."""
    bandwidth: float | None = None
    """Bytes a second that all usable threads read together."""
    cached_bandwidth: float | None = None
    """The same of 16 MiB, over and over."""


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A GPU, whether or not anything installed here can use it."""

    name: str
    api: str | None = None
    """cuda, metal, vulkan, rocm, sycl, …; None where nothing here speaks to it."""
    total: int | None = None
    free: int | None = None
    unified: bool = False
    """It shares main memory: what it holds is taken from ``Memory.available`` too."""
    integrated: bool = False
    """Part of the processor, with no memory faster than the processor's."""
    bandwidth: float | None = None
    capability: str | None = None
    """CUDA's compute capability."""
    driver: str | None = None
    busy: int | None = None
    """Percent of the last moments in which it worked for someone."""
    device: str | None = None
    """llama.cpp's name for it, where the installed llama.cpp can use it."""


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A device that a runtime lists: its kind is cpu, gpu, igpu or accel."""

    name: str
    kind: str
    backend: str
    description: str = ""
    total: int | None = None
    free: int | None = None


class Runtime(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An installed runtime: llama.cpp, onnxruntime, gptqmodel or vllm, and what it was built for."""

    name: str
    version: str | None = None
    backends: list[str] = []
    devices: list[Device] = []
    problem: str | None = None
    """Why it doesn't load although it is installed."""


class Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where power comes from (mains or battery), the charge in percent, and the hottest sensor in degrees Celsius."""

    source: str | None = None
    charge: float | None = None
    hottest: float | None = None
    critical: float | None = None


class Hardware(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One machine as this process may use it."""

    schema_version: int = 1
    system: str
    board: str | None = None
    surroundings: str | None = None
    """WSL2 or container, where it is one."""
    cpu: Cpu
    memory: Memory
    gpus: list[Gpu] = []
    runtimes: list[Runtime] = []
    power: Power = Power()
    unknown: dict[str, str] = {}
    """Why a field is None, by its dotted name."""

    def runtime(self, name: str) -> Runtime | None:
        """An installed runtime that loads."""
        return next((one for one in self.runtimes if one.name == name and one.problem is None), None)
