"""Multiply-adds a second that prompts and single tokens reach, by instruction set or GPU: rough, until measured here."""

from __future__ import annotations

from typing import Final

from edgekit.profiles.structs import Cpu, Gpu, Memory

PROMPT: Final = {
    "AMX INT8": 130e9, "AVX-512 VNNI": 60e9, "AVX-VNNI": 40e9, "AVX-512": 35e9, "AVX2": 25e9, "AVX": 8e9,
    "i8mm": 45e9, "dotprod": 20e9, "NEON": 7e9,
}  # fmt: skip
"""Of one thread; the first that a CPU has counts. AMX INT8 was measured (1.2B parameters in Q4_K_M, 216 tok/s on two
cores), the others follow from the width of their dot products beside it."""
DECODE: Final = {
    "AVX-512 VNNI": 22e9, "AVX-VNNI": 18e9, "AVX-512": 16e9, "AVX2": 14e9, "AVX": 5e9,
    "i8mm": 14e9, "dotprod": 10e9, "NEON": 4e9,
}  # fmt: skip
"""Of one thread on one token at a time, where unpacking weights is most of the work. AVX-512 VNNI was measured."""
_PLAIN: Final = 2e9
_GPU: Final = {"cuda": 40.0, "rocm": 30.0, "metal": 14.0}
"""Multiply-adds per byte of bandwidth."""

GUESSED_GPU: Final = 200e9
GUESSED_CPU: Final = 20e9
"""Bytes a second where nothing is known: enough to rank, not to be shown."""


def of_cpu(cpu: Cpu, threads: int) -> tuple[float, float]:
    """(prompt, decode) of so many threads."""
    sets = cpu.simd or []
    prompt = next((rate for name, rate in PROMPT.items() if name in sets), _PLAIN)
    decode = next((rate for name, rate in DECODE.items() if name in sets), _PLAIN)
    return threads * prompt, threads * decode


def of_gpu(gpu: Gpu, memory: Memory) -> tuple[float, float]:
    """(prompt, decode) of a GPU."""
    prompt = read_speed(gpu, memory) * _GPU.get(gpu.api or "", 10.0)
    return prompt, prompt


def read_speed(gpu: Gpu, memory: Memory) -> float:
    """Bytes a second of its memory: its own, else main memory's where it shares that, else a guess."""
    if gpu.bandwidth:
        return gpu.bandwidth
    return (memory.bandwidth or GUESSED_CPU) if gpu.unified else GUESSED_GPU
