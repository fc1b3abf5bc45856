"""A model's shape in formats that are made from a checkpoint, before they are: from its plain shape, in float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edgekit.profiles.predict import Shape

LIKE: Final = {"INT2": "Q2_K", "INT3": "Q3_K", "INT4": "Q4_0", "INT8": "Q8_0"}
"""The GGUF type that is like it."""
_PLAIN: Final = {"FP32": ("F32", 4), "FP16": ("F16", 2)}
BITS: Final = {"INT2": 2, "INT3": 3, "INT4": 4, "INT8": 8}


def onnx(plain: Shape, precision: str, block: int, beside: int, *, offsets: bool) -> Shape:
    """As onnxruntime-genai's builder makes it for a CPU; ``beside`` the weights lie a tokenizer and a table of rotations.

    A tied head shares its INT4 weights with the embedding; in INT8 the embedding stays apart, in float32.
    """
    if precision in _PLAIN:
        kind, size = _PLAIN[precision]
        return _shape(plain, plain.weight_bytes * size // 4, plain.token_bytes * size // 4, kind, beside)
    matrices, embedding, rest = _parts(plain)
    bits = BITS[precision]
    packed = int(matrices * (bits + 32 / block + (bits / block if offsets else 0)) / 8)
    apart = embedding if precision != "INT4" or not _tied(plain) else 0
    return _shape(plain, packed + 4 * (apart + rest), packed + 4 * rest, LIKE[precision], beside)


def packed(plain: Shape, precision: str, group: int, words: int) -> Shape:
    """As gptqmodel makes it: the layers packed, embedding and head in 16 bits."""
    matrices, embedding, rest = _parts(plain)
    head, bits = embedding, BITS[precision]
    groups = group if group > 0 else plain.width
    inner = int((matrices - head) * (bits + (16 + bits) / groups) / 8)
    whole = inner + 2 * (head + rest + (0 if _tied(plain) else embedding))
    return _shape(plain, whole, inner + 2 * (head + rest), LIKE[precision], words)


def _parts(plain: Shape) -> tuple[int, int, int]:
    """Numbers in matrices (the head among them), in an embedding, and in all that is neither."""
    total, matrices = plain.weight_bytes // 4, sum(plain.matrices.values()) // 4
    embedding = plain.n_vocab * plain.width
    return matrices, embedding, total - matrices - (0 if _tied(plain) else embedding)


def _tied(plain: Shape) -> bool:
    return plain.weight_bytes // 4 - sum(plain.matrices.values()) // 4 < plain.n_vocab * plain.width


def _shape(plain: Shape, weights: int, token: int, kind: str, words: int) -> Shape:
    return replace(
        plain,
        file_bytes=weights + words,
        weight_bytes=weights,
        token_bytes=token,
        token_kinds={kind: sum(plain.token_kinds.values())},
        matrices={kind: token},
    )
