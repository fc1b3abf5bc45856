"""Which runtime, artifact and settings are best on a machine, and why; pure, so that recorded machines can be asked.

Rules that are easy to get wrong: performance cores and no others, physical and not logical, within the quota; as many
layers on a GPU as fit where not all do; memory that a GPU shares counts once; room is left for others; a busy GPU is
not a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

from edgekit.profiles import others, rates
from edgekit.profiles.choice import Artifact, Preferences, RuntimeChoice
from edgekit.profiles.offload import BUSY, Offload, names, offload, ram_room
from edgekit.profiles.predict import KV_BYTES, memory, speed
from edgekit.profiles.structs import Gpu, Hardware
from edgekit.profiles.threads import generation_threads

__all__ = ["Artifact", "Preferences", "RuntimeChoice", "pick"]

CONTEXT: Final = 4096
"""Tokens where none are asked for, if the model was trained for as many."""
SHORT: Final = 256
"""Tokens of KV cache for each of several sequences where the context would give them less."""
BATCH: Final = 512
HELPERS: Final = 4
"""Threads beside a GPU that does all the layers."""


def pick(
    hardware: Hardware, artifacts: Sequence[Artifact], preferences: Preferences | None = None
) -> list[RuntimeChoice]:
    """Every way to run one of the artifacts, best first; those that can't be used come last and say why.

    Best is what runs, reaches ``min_tps`` and loses least to quantization; among equals the fastest.
    """
    wishes = preferences or Preferences()
    found: list[RuntimeChoice] = []
    for artifact in artifacts:
        if artifact.format == "gguf":
            found += _gguf(hardware, artifact, wishes)
        else:
            found += others.choices(hardware, artifact, wishes)
    return sorted(found, key=lambda choice: _worth(choice, wishes))


def _worth(choice: RuntimeChoice, wishes: Preferences) -> tuple[bool, bool, float, float]:
    slow = choice.rank_tps < wishes.min_tps
    return choice.rejected is not None, slow, 0 if slow else -_precision(choice.artifact), -choice.rank_tps


def _precision(artifact: Artifact) -> float:
    """Bits a weight, rounded to what makes a difference whatever the format."""
    bits = 8 * artifact.shape.token_bytes / max(1, artifact.shape.token_weights)
    return next((step for step in (12.0, 7.5, 6.0, 5.4, 4.0, 3.0) if bits >= step), 2.0)


def _gguf(hardware: Hardware, artifact: Artifact, wishes: Preferences) -> list[RuntimeChoice]:
    """llama.cpp on its GPUs, on each kind of them, and on the CPU alone."""
    runtime = hardware.runtime("llama.cpp")
    plain = _choice(hardware, artifact, wishes, [])
    if runtime is None:
        broken = next((one for one in hardware.runtimes if one.name == "llama.cpp"), None)
        why = f"llama.cpp doesn't load: {broken.problem}" if broken else "llama.cpp isn't installed"
        return [
            replace(plain, rejected=why, install=others.install_command(hardware, again=broken is not None))
        ]
    usable = [gpu for gpu in hardware.gpus if gpu.device is not None and (gpu.free or gpu.unified)]
    cards = [gpu for gpu in usable if not gpu.integrated]
    own = [gpu for gpu in usable if gpu.integrated]
    if wishes.n_gpu_layers == 0:
        return [plain]
    found = [_choice(hardware, artifact, wishes, group) for group in (cards, own[:1]) if group]
    return found if found and wishes.n_gpu_layers else [*found, plain]


def _choice(hardware: Hardware, artifact: Artifact, wishes: Preferences, gpus: list[Gpu]) -> RuntimeChoice:
    shape = artifact.shape
    context = wishes.context or min(shape.trained, CONTEXT)
    places = wishes.places or max(context, SHORT * wishes.sequences if wishes.sequences > 1 else 0)
    batch = wishes.batch or BATCH
    ram = ram_room(hardware.memory.available)
    kv_type, kv_reason = _kv_type(hardware, artifact, wishes, places)
    simd = () if gpus else hardware.cpu.simd or ()
    need = memory(shape, context=places, kv_type=kv_type, batch=batch, sequences=wishes.sequences, simd=simd)
    on_gpu = offload(shape, need, gpus, ram) if gpus else Offload(0, 0, ())
    threads, reasons = generation_threads(hardware.cpu, shape.token_bytes)
    if wishes.tuned_threads and not gpus:
        threads, reasons = wishes.tuned_threads, ["fastest when this machine was tuned for this model"]
    layers = on_gpu.layers
    if wishes.n_gpu_layers is not None and gpus:
        layers = min(wishes.n_gpu_layers, shape.layers + 1) if wishes.n_gpu_layers >= 0 else shape.layers + 1
    whole = layers > shape.layers
    if whole:
        threads, reasons = min(threads, HELPERS), ["a few threads suffice beside a GPU that holds all layers"]
    overridden = _overridden(wishes, threads, on_gpu.layers)
    threads = wishes.threads or threads
    prompt, decode = _speeds(hardware, artifact, gpus, layers, threads)
    prompt, decode = prompt * (wishes.measured_prompt or 1), decode * (wishes.measured or 1)
    known = _known(hardware, gpus, whole) or wishes.measured is not None
    choice = RuntimeChoice(
        runtime="llama.cpp",
        artifact=artifact,
        device=names(gpus) or "CPU",
        n_gpu_layers=layers,
        threads=threads,
        batch_threads=wishes.batch_threads or threads,
        batch=batch,
        context=context,
        kv_type=kv_type,
        memory=need,
        gpu_bytes=on_gpu.nbytes,
        prompt_tps=prompt if known else None,
        decode_tps=decode if known else None,
        rank_tps=decode,
        reasons=(
            *on_gpu.reasons,
            *_devices(hardware, gpus),
            *(f"threads: {reason}" for reason in reasons),
            *kv_reason,
        ),
        overridden=overridden,
    )
    return replace(choice, rejected=_too_large(choice, hardware, gpus, ram, layers == on_gpu.layers))


def _kv_type(
    hardware: Hardware, artifact: Artifact, wishes: Preferences, places: int
) -> tuple[Literal["f16", "q8_0", "f32"], tuple[str, ...]]:
    """Keys and values in 16 bits, unless only 8 make the model fit into main memory."""
    if wishes.kv_type is not None:
        return wishes.kv_type, ()
    ram = ram_room(hardware.memory.available)
    if ram is None or any(gpu.device and not gpu.unified for gpu in hardware.gpus):
        return "f16", ()
    sizes = {
        kind: memory(
            artifact.shape, context=places, kv_type=kind, batch=BATCH, sequences=wishes.sequences
        ).total
        for kind in ("f16", "q8_0")
    }
    if sizes["f16"] > ram >= sizes["q8_0"]:
        saved = (1 - KV_BYTES["q8_0"] / KV_BYTES["f16"]) * 100
        return "q8_0", (f"KV cache in q8_0: {saved:.0f}% smaller, and only so everything fits",)
    return "f16", ()


def _speeds(
    hardware: Hardware, artifact: Artifact, gpus: list[Gpu], layers: int, threads: int
) -> tuple[float, float]:
    """(prompt, decode) in tokens a second, a layer at a time: those on the CPU, then those on GPUs, one after the other."""
    shape = artifact.shape
    bandwidth = hardware.memory.bandwidth or rates.GUESSED_CPU
    alone = speed(
        shape, bandwidth, rates.of_cpu(hardware.cpu, threads), cached=hardware.memory.cached_bandwidth
    )
    if not gpus or not layers:
        return alone.prompt_tps, alone.decode_tps
    share = min(1.0, layers / (shape.layers + 1))
    seconds, prompt = (1 - share) / alone.decode_tps, (1 - share) / alone.prompt_tps
    for gpu in gpus:
        left = max(0.1, 1 - gpu.busy / 100) if gpu.busy is not None and gpu.busy >= BUSY else 1.0
        read = left * rates.read_speed(gpu, hardware.memory)
        one = speed(shape, read, rates.of_gpu(gpu, hardware.memory, left))
        seconds += share / len(gpus) / one.decode_tps
        prompt += share / len(gpus) / one.prompt_tps
    if all(gpu.integrated for gpu in gpus):
        seconds = max(seconds, 1.05 / alone.decode_tps)  # the same memory, behind a driver
    return 1 / prompt, 1 / seconds


def _known(hardware: Hardware, gpus: list[Gpu], whole: bool) -> bool:
    """Whether every bandwidth that a prediction needs is known."""
    main = hardware.memory.bandwidth is not None
    return all(gpu.bandwidth or (gpu.unified and main) for gpu in gpus) and (main or (whole and bool(gpus)))


def _devices(hardware: Hardware, gpus: list[Gpu]) -> list[str]:
    """Why these devices and not others."""
    if hardware.runtime("llama.cpp") is None:
        return []
    if gpus:
        return ["it has no memory of its own, so it decodes no faster than the CPU"] * all(
            gpu.integrated for gpu in gpus
        )
    return [reason for gpu in hardware.gpus if gpu.device is None for reason in others.unused(hardware, gpu)]


def _overridden(wishes: Preferences, threads: int, layers: int) -> tuple[str, ...]:
    asked = (
        ("threads", wishes.threads or None, threads),
        ("batch threads", wishes.batch_threads or None, wishes.threads or threads),
        ("GPU layers", wishes.n_gpu_layers, layers),
        ("batch", wishes.batch or None, BATCH),
    )
    return tuple(
        f"{name}: {value} as asked, {own} was picked"
        for name, value, own in asked
        if value not in (None, own)
    )


def _too_large(
    choice: RuntimeChoice, hardware: Hardware, gpus: list[Gpu], ram: int | None, planned: bool
) -> str | None:
    """Why a choice can't be used."""
    if gpus and planned and choice.n_gpu_layers == 0:
        return f"not one layer fits on {choice.device}"
    if ram is None:
        return None
    unified = all(gpu.unified for gpu in gpus)
    main = choice.memory.total if unified or not gpus else choice.memory.total - choice.gpu_bytes
    if main <= ram:
        return None
    limit = " within the container's limit" if hardware.memory.limit else ""
    return (
        f"it takes {main / 1e9:.2f} GB of main memory, and {ram / 1e9:.2f} GB can be used: what is available{limit}, "
        "less a tenth for others; a smaller quantization or context may fit"
    )
