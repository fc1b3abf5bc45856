"""Multiply-adds a second that prompts and single tokens reach, by instruction set or GPU: rough, until measured here."""

from __future__ import annotations

from typing import Final

from edgekit.profiles.predict import Pace
from edgekit.profiles.structs import Cpu, Gpu, Memory

PROMPT: Final = {
    "AMX INT8": 130e9, "AVX-512 VNNI": 60e9, "AVX-VNNI": 40e9, "AVX-512": 35e9, "AVX2": 25e9, "AVX": 8e9,
    "i8mm": 45e9, "dotprod": 20e9, "NEON": 7e9,
}  # fmt: skip
"""Of one thread; the first that a CPU has counts. AMX INT8 was measured (1.2B parameters in Q4_K_M, 216 tok/s on two
cores), the others follow from the width of their dot products beside it."""
UNPACK: Final = {
    "F32": 1, "F16": 17, "BF16": 21, "Q8_0": 14, "Q4_0": 9, "Q4_1": 18, "Q5_0": 58, "Q5_1": 60, "Q2_K": 46, "Q3_K": 70,
    "Q4_K": 24, "Q5_K": 48, "Q6_K": 44, "IQ4_NL": 40, "IQ4_XS": 30,
}  # fmt: skip
"""Picoseconds of one thread for one weight on one token at a time, beside reading it: fitted to 22 models of a type each,
of 7 and 1,236 million weights, on a Xeon with AVX-512 VNNI and AMX (tests/benchmarks/unpack.py; within a quarter of each)."""
OTHER: Final = 70
"""The same for types that weren't measured."""
SLOWER: Final = {
    "AVX-512 VNNI": 1.0, "AVX-VNNI": 1.0, "AVX-512": 1.2, "AVX2": 1.3, "AVX": 4.4, "i8mm": 1.2, "dotprod": 2.0, "NEON": 5.5,
}  # fmt: skip
"""How much longer it takes with other instructions; the first that a CPU has counts. From the width of their dot products,
held against published rates: a Raspberry Pi 5 comes out within a fifth of them, a Core i3-1315U below."""
STEP: Final = 60e-6
LAYER: Final = 7e-6
"""Seconds of a token, and of each layer, that its weights don't cause: fitted with ``UNPACK``."""
EFFICIENCY: Final = 0.95
"""Share of its own measured bandwidth at which a CPU reads weights while decoding (fitted, with ``UNPACK``)."""
_PLAIN: Final = 2e9
_SLOW: Final = 11.0
_GPU: Final = {"cuda": (40.0, 0.9), "rocm": (30.0, 0.8), "metal": (14.0, 0.8)}
"""Multiply-adds per byte of bandwidth, and the share of a data sheet's bandwidth at which weights are read."""
_OTHER_GPU: Final = (10.0, 0.8)
GPU_STEP: Final = 300e-6
GPU_LAYER: Final = 80e-6
"""Seconds of a token, and of each layer, that its weights don't cause. With this, of the published rates of an 8B in Q4_K_M
and F16 (github.com/XiongjieDai/GPU-Benchmarks-on-LLM-Inference), six GeForce cards and an M1 come out within 10%; an A100
comes out a quarter too fast, an M1 Max a half."""

GUESSED_GPU: Final = 200e9
GUESSED_CPU: Final = 20e9
"""Bytes a second where nothing is known: enough to rank, not to be shown."""


def of_cpu(cpu: Cpu, threads: int) -> Pace:
    """Of so many threads."""
    sets = cpu.simd or []
    prompt = next((rate for name, rate in PROMPT.items() if name in sets), _PLAIN)
    slower = next((factor for name, factor in SLOWER.items() if name in sets), _SLOW)
    each = 1e-12 * slower / threads
    unpack = {kind: each * picoseconds for kind, picoseconds in UNPACK.items()}
    return Pace(threads * prompt, EFFICIENCY, unpack, each * OTHER, STEP * slower, LAYER * slower)


def of_gpu(gpu: Gpu, memory: Memory, share: float = 1.0) -> Pace:
    """Of a GPU, or of the share of it that others leave."""
    per_byte, efficiency = _GPU.get(gpu.api or "", _OTHER_GPU)
    ops = share * read_speed(gpu, memory) * per_byte
    return Pace(ops, efficiency, other=1 / ops, step=GPU_STEP, layer=GPU_LAYER)


def read_speed(gpu: Gpu, memory: Memory) -> float:
    """Bytes a second of its memory: its own, else main memory's where it shares that, else a guess."""
    if gpu.bandwidth:
        return gpu.bandwidth
    return (memory.bandwidth or GUESSED_CPU) if gpu.unified else GUESSED_GPU
