"""A machine and what is picked for it, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgekit.units import size

if TYPE_CHECKING:
    from edgekit.profiles.choice import RuntimeChoice
    from edgekit.profiles.structs import Cpu, Gpu, Hardware, Memory, Power


def rows(hardware: Hardware) -> list[tuple[str, str]]:
    """(what, how it is) of everything that is known."""
    place = ", ".join(filter(None, (hardware.board, hardware.surroundings)))
    found = [
        ("machine", f"{hardware.system} {hardware.cpu.arch}" + (f", {place}" if place else "")),
        *_cpu(hardware.cpu),
        ("memory", _memory(hardware.memory)),
        ("bandwidth", "unknown" if not (rate := hardware.memory.bandwidth) else f"{rate / 1e9:.1f} GB/s, all threads reading"),
    ]  # fmt: skip
    found += [("GPU", _gpu(gpu)) for gpu in hardware.gpus] or [("GPU", "none found")]
    for runtime in hardware.runtimes:
        how = runtime.problem and f"doesn't load: {runtime.problem}"
        found.append(
            ("runtime", f"{runtime.name} {runtime.version or ''}: {how or ', '.join(runtime.backends)}")
        )
    if not hardware.runtimes:
        found.append(("runtime", "none is installed"))
    found.append(("power", _power(hardware.power)))
    return found


def _cpu(cpu: Cpu) -> Iterator[tuple[str, str]]:
    yield "processor", cpu.name or "unknown"
    if cpu.physical is None:
        cores = "unknown"
    elif cpu.efficiency:
        cores = f"{cpu.performance} performance, {cpu.efficiency} efficiency"
    else:
        cores = f"{cpu.physical} physical"
    if cpu.logical and cpu.logical != cpu.physical:
        cores += f", {cpu.logical} logical"
    if cpu.sockets > 1:
        cores += f" in {cpu.sockets} sockets"
    if cpu.usable is not None and cpu.usable != cpu.logical:
        cores += f"; this process may run on {cpu.usable}"
    if cpu.quota is not None:
        cores += f"; limited to {cpu.quota:g} CPUs' time"
    yield "cores", cores
    yield "SIMD", ", ".join(cpu.simd) if cpu.simd else "unknown" if cpu.simd is None else "none that matters"
    sizes = [
        f"{name} {_binary(nbytes)}"
        for name, nbytes in (("L1d", cpu.l1d), ("L2", cpu.l2), ("L3", cpu.l3))
        if nbytes
    ]
    if sizes:
        yield "caches", ", ".join(sizes)


def _binary(nbytes: int) -> str:
    return f"{nbytes / 1048576:g} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"


def _memory(memory: Memory) -> str:
    total = "unknown" if memory.total is None else size(memory.total)
    left = "" if memory.available is None else f", {size(memory.available)} available"
    return total + left + ("" if memory.limit is None else f"; limited to {size(memory.limit)}")


def _gpu(gpu: Gpu) -> str:
    parts = [gpu.name]
    if gpu.total:
        free = "" if gpu.free is None else f" ({size(gpu.free)} free)"
        parts.append(f"{size(gpu.total)}{free}{' of main memory' if gpu.unified else ''}")
    if gpu.bandwidth:
        parts.append(f"{gpu.bandwidth / 1e9:.0f} GB/s")
    if gpu.capability:
        parts.append(f"compute capability {gpu.capability}")
    if gpu.driver:
        parts.append(f"driver {gpu.driver}")
    if gpu.busy:
        parts.append(f"{gpu.busy}% busy")
    parts.append(f"llama.cpp's {gpu.device}" if gpu.device else "not used by the installed llama.cpp")
    return ", ".join(parts)


def _power(power: Power) -> str:
    text = power.source or "unknown"
    if power.charge is not None:
        text += f", charged to {power.charge:.0f}%"
    if power.hottest is not None:
        text += f"; hottest sensor {power.hottest:.0f} °C"
        text += f", limit {power.critical:.0f} °C" if power.critical else ""
    return text


def summary(choice: RuntimeChoice) -> str:
    """A choice's settings in one line."""
    where = "CPU" if not choice.n_gpu_layers else f"{choice.device}, {choice.n_gpu_layers} layers"
    threads = f"{choice.threads} thread{'s' * (choice.threads > 1)}"
    if choice.batch_threads != choice.threads:
        threads += f" ({choice.batch_threads} for prompts)"
    return (
        f"{choice.runtime} on {where}, {threads}, batch {choice.batch}, context {choice.context:,}, "
        f"KV cache in {choice.kv_type}"
    )


def explain(choices: list[RuntimeChoice]) -> Iterator[tuple[str, str]]:
    """(label, text) of the first choice with its figures and reasons, then of the others."""
    first = choices[0]
    if first.rejected is None:
        yield "picked", summary(first)
        need = first.memory
        parts = f"weights {size(need.weights)}, KV cache {size(need.kv_cache)}, buffers {size(need.compute)}"
        yield "memory", f"{size(need.total)}: {parts}, process {size(need.overhead)}"
        if first.decode_tps and first.prompt_tps:
            yield "predicted", f"{first.decode_tps:,.0f} tok/s, prompts {first.prompt_tps:,.0f} tok/s"
        yield from (("because", reason) for reason in first.reasons)
        yield from (("override", text) for text in first.overridden)
    for other in choices[first.rejected is None :]:
        if other.rejected:
            yield "rejected", f"{other.runtime} on {other.device}: {other.rejected}"
            if other.install:
                yield "next step", other.install
        else:
            tps = f"{other.decode_tps:,.0f} tok/s" if other.decode_tps else "speed unknown"
            yield "instead", f"{summary(other)}; {tps}"
