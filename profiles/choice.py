"""What the picker is given and what it gives: artifacts, preferences, choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.profiles.predict import Memory, Shape

Format = Literal["gguf", "onnx", "gptq", "awq"]


@dataclass(frozen=True)
class Artifact:
    """One form of a model."""

    path: str
    format: Format
    quantization: str
    shape: Shape


@dataclass(frozen=True)
class Preferences:
    """What a caller insists on; None and zeros leave it to the picker."""

    context: int | None = None
    places: int | None = None
    """Tokens of KV cache for all sequences together."""
    sequences: int = 1
    kv_type: Literal["f16", "q8_0", "f32"] | None = None
    threads: int = 0
    batch_threads: int = 0
    batch: int = 0
    n_gpu_layers: int | None = None
    min_tps: float = 10.0
    """Decode speed below which a smaller artifact is better: about how fast people read."""
    tuned_threads: int = 0
    """What this machine's own measurements found fastest for this model."""
    measured: float | None = None
    """Measured over predicted decode speed of this machine's own benchmarks; predictions are corrected by it."""
    measured_prompt: float | None = None


@dataclass(frozen=True)
class RuntimeChoice:
    """One way to run one artifact, with what it takes and why."""

    runtime: str
    artifact: Artifact
    device: str
    """CPU, or the GPUs' names."""
    n_gpu_layers: int
    threads: int
    batch_threads: int
    batch: int
    context: int
    kv_type: Literal["f16", "q8_0", "f32"]
    memory: Memory
    gpu_bytes: int
    """The part of ``memory`` that lies on GPUs."""
    prompt_tps: float | None
    decode_tps: float | None
    """Predicted tokens a second; None where the memory's bandwidth isn't known."""
    rank_tps: float
    """The same with guesses in place of what isn't known: to compare choices only."""
    reasons: tuple[str, ...]
    overridden: tuple[str, ...] = ()
    """What the caller insisted on, with what would have been picked."""
    rejected: str | None = None
    """Why it can't be used; None where it can."""
    install: str | None = None
    """Where its runtime is missing, or doesn't load: the command that would change that, to paste."""
