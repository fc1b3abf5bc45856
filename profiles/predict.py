"""What a model takes of a machine: memory by context, and speed by how fast its weights can be read. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PROCESS: Final = 64 << 20
"""Bytes of an interpreter with numpy and llama.cpp loaded, before any model."""
OUTPUTS: Final = 64
"""Rows of logits that edgekit's runtime reserves for."""
KV_BYTES: Final = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}
EFFICIENCY: Final = 0.8
"""Share of the bandwidth at which llama.cpp reads a large model's weights while decoding."""


@dataclass(frozen=True)
class Shape:
    """What of a model decides memory and speed; bytes are the artifact's own, quantized."""

    file_bytes: int
    weight_bytes: int
    token_bytes: int
    """Read for one token: of experts only the active ones, of the token embedding one row."""
    token_weights: int
    """Weights multiplied for one token."""
    layers: int
    kv_widths: tuple[int, ...]
    """Numbers that a layer keeps for a place of the context, keys and values together; 0 for recurrent layers."""
    windows: tuple[int, ...]
    """A layer's sliding window in places; 0 where it sees the whole context."""
    state_bytes: int
    """Recurrent state of one sequence, all layers."""
    n_vocab: int
    width: int
    ffn: int
    trained: int
    """Context that the model was trained for."""


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for."""

    weights: int
    kv_cache: int
    compute: int
    overhead: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.compute + self.overhead


@dataclass(frozen=True)
class Speed:
    """Tokens a second of a prompt and of an answer."""

    prompt_tps: float
    decode_tps: float


def memory(shape: Shape, *, context: int, kv_type: str, batch: int, sequences: int) -> Memory:
    """Bytes with a KV cache of ``context`` places for all sequences together, ``batch`` tokens a call."""
    places = [min(context, window + batch) if window else context for window in shape.windows]
    kv = sum(width * n for width, n in zip(shape.kv_widths, places, strict=True)) * KV_BYTES[kv_type]
    activations = batch * 4 * (3 * shape.ffn + 4 * shape.width) + batch * context * 2
    logits = max(OUTPUTS, sequences) * 4 * shape.n_vocab + batch * 4 * shape.width
    return Memory(
        shape.weight_bytes,
        int(kv) + shape.state_bytes * sequences,
        max(activations, logits),
        PROCESS,
    )


def speed(
    shape: Shape, bandwidth: float, *, prompt_ops: float, decode_ops: float, efficiency: float = EFFICIENCY
) -> Speed:
    """From bytes a second of the memory that holds the weights, and multiply-adds a second of what computes.

    One token at a time, quantized weights are unpacked for a single product each: ``decode_ops`` are far fewer.
    """
    weights = max(1, shape.token_weights)
    read = max(1, shape.token_bytes) / (efficiency * bandwidth)
    return Speed(prompt_ops / weights, 1 / (read + weights / decode_ops))
