"""What a model takes of a machine: memory by context, and speed by how fast its weights can be read. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from edgekit.profiles import repack

PROCESS: Final = 57 << 20
"""Bytes of an interpreter with numpy and llama.cpp loaded (measured: 55 to 60 MiB with small vocabularies)."""
TOKEN: Final = 240
"""Bytes that llama.cpp keeps for a token of the vocabulary: its text, maps from and to it, merges (measured at 128k)."""
CELLS: Final = 256
"""llama.cpp rounds a KV cache up to so many places."""
OUTPUTS: Final = 64
"""Rows of logits that edgekit's runtime reserves for."""
KV_BYTES: Final = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}
CACHED: Final = 32 << 20
UNCACHED: Final = 128 << 20
"""Bytes a token up to which the speed of caches counts, and from which main memory's does."""


@dataclass(frozen=True)
class Shape:
    """What of a model decides memory and speed; bytes are the artifact's own, quantized."""

    file_bytes: int
    weight_bytes: int
    token_bytes: int
    """Read for one token: of experts only the active ones, of the token embedding one row."""
    token_weights: int
    """Weights multiplied for one token."""
    token_kinds: Mapping[str, float]
    """The same by quantization type."""
    layers: int
    kv_widths: tuple[int, ...]
    """Numbers that a layer keeps for a place of the context, keys and values together; 0 for recurrent layers."""
    """Those with a sliding window keep the whole context too: what has left the window can't be shared any more."""
    state_bytes: int
    """Recurrent state of one sequence, all layers."""
    n_vocab: int
    width: int
    ffn: int
    """Width of a token's feed-forward; of all its active experts together."""
    trained: int
    """Context that the model was trained for."""
    matrices: Mapping[str, int] = field(default_factory=dict)
    """Bytes by type of what tokens are multiplied with; a head that is the embedding counts."""
    experts: Mapping[str, int] = field(default_factory=dict)
    """The same for experts, all of them."""
    masks: int = 1
    """Attention masks that are held at once: two where some layers have a sliding window."""


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for."""

    weights: int
    kv_cache: int
    compute: int
    overhead: int
    copies: int = 0
    """Weights that a CPU keeps a second time, rearranged; their originals are mapped, and given up when room is short."""

    @property
    def total(self) -> int:
        """What has to fit."""
        return self.weights + self.kv_cache + self.compute + self.overhead

    @property
    def peak(self) -> int:
        """What the system counts as resident where room isn't short."""
        return self.total + self.copies


@dataclass(frozen=True)
class Pace:
    """How fast something computes, whatever memory it reads."""

    prompt_ops: float
    """Multiply-adds a second on a prompt."""
    efficiency: float = 1.0
    """Share of the bandwidth at which weights are read while decoding."""
    unpack: Mapping[str, float] = field(default_factory=dict)
    """Seconds for one weight of a type while decoding: unpacked for a single product, it costs far more than that."""
    other: float = 0.0
    """The same for types that aren't named."""
    step: float = 0.0
    layer: float = 0.0
    """Seconds for each token, and for each of its layers, that no weight causes."""

    def seconds(self, kind: str) -> float:
        """For one weight of a quantization type."""
        return self.unpack.get(kind, self.other)


@dataclass(frozen=True)
class Speed:
    """Tokens a second of a prompt and of an answer."""

    prompt_tps: float
    decode_tps: float


def memory(
    shape: Shape, *, context: int, kv_type: str, batch: int, sequences: int, simd: Collection[str] = ()
) -> Memory:
    """Bytes with a KV cache of ``context`` places for all sequences together, ``batch`` tokens a call.

    ``simd``: instruction sets of the CPU that computes, which decide what it keeps ``copies`` of.
    """
    context = -(-context // CELLS) * CELLS
    kv = sum(shape.kv_widths) * context * KV_BYTES[kv_type]
    activations = batch * 4 * (3 * shape.ffn + 4 * shape.width) + batch * context * 2 * shape.masks
    logits = max(OUTPUTS, sequences) * 4 * shape.n_vocab + batch * 4 * shape.width
    return Memory(
        shape.weight_bytes,
        int(kv) + shape.state_bytes * sequences,
        max(activations, logits),
        PROCESS + TOKEN * shape.n_vocab,
        repack.copies(shape.matrices, shape.experts, simd),
    )


def speed(shape: Shape, bandwidth: float, pace: Pace, *, cached: float | None = None) -> Speed:
    """From bytes a second of the memory that holds the weights, of ``cached`` ones, and the pace of what computes."""
    rate = _between(shape.token_bytes, cached or bandwidth, bandwidth)
    read = max(1, shape.token_bytes) / (pace.efficiency * rate)
    compute = sum(weights * pace.seconds(kind) for kind, weights in shape.token_kinds.items())
    token = read + compute + pace.step + pace.layer * shape.layers
    return Speed(pace.prompt_ops / max(1, shape.token_weights), 1 / token)


def _between(nbytes: int, cached: float, bandwidth: float) -> float:
    """Bytes a second, from caches' to main memory's evenly with the logarithm of what is read."""
    if cached <= bandwidth:
        return bandwidth
    far = math.log(max(1, nbytes) / CACHED) / math.log(UNCACHED / CACHED)
    return cached + (bandwidth - cached) * min(1.0, max(0.0, far))
