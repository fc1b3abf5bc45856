"""Runtimes beside llama.cpp, and what to install for what a machine has."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from edgekit.profiles import rates
from edgekit.profiles.choice import Artifact, Preferences, RuntimeChoice
from edgekit.profiles.offload import gpu_room, ram_room
from edgekit.profiles.predict import memory, speed
from edgekit.profiles.structs import Gpu, Hardware
from edgekit.profiles.threads import generation_threads
from edgekit.units import size

MANY: Final = 4
"""Answers at once from which vLLM's batching beats llama.cpp on a CUDA card."""

LLAMA: Final = "pip install 'edgekit[llamacpp]'"
ANEW: Final = "pip install --force-reinstall --no-cache-dir llama-cpp-python"
BUILDS: Final = {
    "NVIDIA": "CMAKE_ARGS='-DGGML_CUDA=on'",
    "AMD": "CMAKE_ARGS='-DGGML_VULKAN=on'",
    "Intel": "CMAKE_ARGS='-DGGML_VULKAN=on'",
    "Apple": "CMAKE_ARGS='-DGGML_METAL=on'",
}


def vendor(gpu: Gpu) -> str:
    """Who made it, as far as its name or API tells."""
    if gpu.api == "metal":
        return "Apple"
    if gpu.api == "cuda":
        return "NVIDIA"
    return next((name for name in BUILDS if name.lower() in gpu.name.lower()), "AMD")


def unused(hardware: Hardware, gpu: Gpu) -> list[str]:
    """Why a GPU that is there isn't used, and what would change that."""
    maker = vendor(gpu)
    problem = hardware.unknown.get("gpus.nvidia") if maker == "NVIDIA" else None
    if problem and gpu.api is None:
        return [f"{gpu.name} isn't used: {problem}"]
    if gpu.integrated:
        return []
    return [f"{gpu.name} isn't used: the installed llama.cpp isn't built for it; {BUILDS[maker]} {ANEW}"]


def install_command(hardware: Hardware, *, again: bool = False) -> str:
    """The command that gives this machine llama.cpp; ``again``: compiled anew, where the installed one is broken."""
    card = next((gpu for gpu in hardware.gpus if not gpu.integrated), None)
    # llama.cpp's build finds Metal by itself.
    flags = "" if card is None or vendor(card) == "Apple" else f"{BUILDS[vendor(card)]} "
    return flags + (ANEW if again else LLAMA)


ON_CPU: Final = "no NVIDIA card: transformers computes GPTQ and AWQ on the CPU, slowly; a GGUF is the better artifact here"


PROMPTS: Final = {"onnxruntime": 0.41, "gptqmodel": 0.16}
"""Prompts on a CPU beside what llama.cpp is predicted at (measured: 86 tok/s of 210 of a 1.2B Llama in INT4)."""
LIBRARIES: Final = {"onnxruntime": 40 << 20, "gptqmodel": 560 << 20}
"""Bytes that the runtime's own code takes beyond llama.cpp's (measured)."""


def beside(runtime: str, sequences: int, *, cpu: bool = False) -> float:
    """Decoding beside llama.cpp's on the same device: ONNX Runtime's 18 tok/s where 30 are predicted of a 1.2B Llama in INT4,
    1,730 of 3,200 of one of 7M (measured); vLLM's gain is for many answers at once, gptqmodel's loss is that of
    transformers' loop; on a CPU it is nearly all (measured)."""
    if cpu and runtime == "gptqmodel":
        return 0.08
    return {"onnxruntime": 0.6, "gptqmodel": 0.5, "vllm": 3.0 if sequences >= MANY else 0.9}[runtime]


def choices(hardware: Hardware, artifact: Artifact, wishes: Preferences) -> list[RuntimeChoice]:
    """ONNX Runtime, or what runs GPTQ."""
    if artifact.format == "onnx":
        return [_onnx(hardware, artifact, wishes)]
    cards = [gpu for gpu in hardware.gpus if gpu.api == "cuda" and not gpu.unified]
    return [_gptq(hardware, artifact, wishes, name, cards[:1]) for name in ("vllm", "gptqmodel")]


def _onnx(hardware: Hardware, artifact: Artifact, wishes: Preferences) -> RuntimeChoice:
    threads, reasons = generation_threads(hardware.cpu, artifact.shape.token_bytes)
    found = _plain(hardware, artifact, wishes, "onnxruntime", wishes.threads or threads, [])
    if hardware.runtime("onnxruntime") is None:
        return _missing(found, "onnx")
    ram = ram_room(hardware.memory.available)
    short = ram is not None and found.memory.total > ram
    return _with(
        found,
        [f"threads: {reason}" for reason in reasons],
        "main memory is too small for it" if short else None,
    )


def _gptq(
    hardware: Hardware, artifact: Artifact, wishes: Preferences, runtime: str, cards: list[Gpu]
) -> RuntimeChoice:
    threads, _ = generation_threads(hardware.cpu, artifact.shape.token_bytes)
    found = _plain(hardware, artifact, wishes, runtime, 1 if cards else wishes.threads or threads, cards)
    if not cards and runtime == "vllm":
        return _with(found, [], "vLLM runs on NVIDIA cards, and there is none")
    if hardware.runtime(runtime) is None:
        extra = "gptq" if runtime == "gptqmodel" else "vllm"
        return _missing(found, extra)
    if not cards:
        ram = ram_room(hardware.memory.available)
        short = ram is not None and found.memory.total > ram
        return _with(found, [ON_CPU], "main memory is too small for it" if short else None)
    if (missing := found.memory.total - gpu_room(cards[0])) > 0:
        return _with(
            found, [],
            f"it takes {size(missing)} more than {cards[0].name} has, and only llama.cpp can leave a part to the CPU",
        )  # fmt: skip
    return _with(found, [f"all of it fits on {cards[0].name}"], None)


def _missing(choice: RuntimeChoice, extra: str) -> RuntimeChoice:
    return replace(
        choice, rejected=f"{choice.runtime} isn't installed", install=f"pip install 'edgekit[{extra}]'"
    )


def _with(choice: RuntimeChoice, reasons: list[str], rejected: str | None) -> RuntimeChoice:
    return replace(choice, reasons=tuple(reasons), rejected=rejected)


def _plain(
    hardware: Hardware, artifact: Artifact, wishes: Preferences, runtime: str, threads: int, gpus: list[Gpu]
) -> RuntimeChoice:
    """A choice with all of the model in one place."""
    shape = artifact.shape
    context = wishes.context or min(shape.trained, 4096)
    # Each sequence of an ONNX model has room of its own, for numbers of 32 bits.
    kv_type: Literal["f16", "f32"] = "f32" if runtime == "onnxruntime" else "f16"
    need = memory(
        shape, context=context * wishes.sequences, kv_type=kv_type, batch=512, sequences=wishes.sequences
    )
    need = replace(need, overhead=need.overhead + LIBRARIES.get(runtime, 0))
    if gpus:
        bandwidth = rates.read_speed(gpus[0], hardware.memory)
        pace = rates.of_gpu(gpus[0], hardware.memory)
    else:
        bandwidth = hardware.memory.bandwidth or rates.GUESSED_CPU
        pace = rates.of_cpu(hardware.cpu, threads)
    found = speed(shape, bandwidth, pace)
    slower = beside(runtime, wishes.sequences, cpu=not gpus)
    prompts = 1.0 if gpus else PROMPTS.get(runtime, 1.0)
    known = bool(gpus and gpus[0].bandwidth) or (not gpus and hardware.memory.bandwidth is not None)
    return RuntimeChoice(
        runtime=runtime,
        artifact=artifact,
        device=gpus[0].name if gpus else "CPU",
        n_gpu_layers=shape.layers + 1 if gpus else 0,
        threads=threads,
        batch_threads=threads,
        batch=512,
        context=context,
        kv_type=kv_type,
        memory=need,
        gpu_bytes=need.total if gpus else 0,
        prompt_tps=found.prompt_tps * prompts if known else None,
        decode_tps=found.decode_tps * slower if known else None,
        rank_tps=found.decode_tps * slower,
        reasons=(),
    )
