"""A device from its profile as the hardware that a probe would find there, so that the same picker predicts for both."""

from __future__ import annotations

from edgekit.profiles import structs
from edgekit.profiles.devices import GB, Device

_SYSTEMS = {"macOS": "Darwin"}


def hardware(device: Device) -> structs.Hardware:
    """Idle, with llama.cpp built for its GPU, and with all of its main memory available."""
    cpu, cores = device.cpu, device.cpu.cores
    physical = cores + cpu.efficiency_cores
    total = int(device.memory_gb * GB)
    gpus = [_gpu(device)] if device.gpu else []
    return structs.Hardware(
        system=_SYSTEMS.get(device.system, device.system),
        board=device.about,
        cpu=structs.Cpu(
            name=cpu.name, arch=device.architecture, physical=physical, performance=cores, efficiency=cpu.efficiency_cores,
            logical=physical, usable=physical, usable_performance=cores, usable_physical=physical, simd=list(cpu.simd),
        ),
        memory=structs.Memory(total=total, available=total, bandwidth=device.bandwidth_gb_s * GB),
        gpus=gpus,
        runtimes=[structs.Runtime(name="llama.cpp", backends=["CPU", *(gpu.api or "" for gpu in gpus)])],
    )  # fmt: skip


def _gpu(device: Device) -> structs.Gpu:
    gpu = device.gpu
    assert gpu is not None
    own = int((gpu.memory_gb or device.memory_gb) * GB)
    return structs.Gpu(
        name=gpu.name,
        api=gpu.api,
        total=own,
        free=own,
        unified=gpu.memory_gb is None,
        bandwidth=(gpu.bandwidth_gb_s or device.bandwidth_gb_s) * GB,
        device=f"{gpu.api}0",
    )
