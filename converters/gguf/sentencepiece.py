"""SentencePiece's tokenizer.model: a protobuf message, read here with bounds and without the protobuf package.

Fields: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf import TokenType

from edgekit.errors import InputError, UnsupportedModelError
from edgekit.files import inside, read_bounded

FILE = "tokenizer.model"
SPACE = "\u2581"
"""What SentencePiece writes for a space."""

_KINDS = {1: "unigram", 2: "bpe"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_Value = int | bytes


@dataclass(frozen=True)
class Model:
    """Pieces by id with their scores and types, and how text is prepared for them."""

    path: Path
    kind: str
    pieces: list[str]
    scores: list[float]
    types: list[TokenType]
    """SentencePiece numbers them as GGUF does."""
    ids: dict[str, int]
    """GGUF's names of the special tokens that the file has."""
    byte_fallback: bool
    suffix: bool
    """Spaces are the end of words, not their beginning."""
    charsmap: bytes
    dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool


def read(folder: Path) -> Model:
    """Decode tokenizer.model; ``InputError`` for a file that isn't one, ``UnsupportedModelError`` for words or characters."""
    path = inside(folder, FILE)
    try:
        return _decode(read_bounded(path), path)
    except (struct.error, IndexError, TypeError, ValueError) as error:
        raise InputError(
            "not a readable tokenizer.model",
            path=path,
            found=str(error),
            expected="a SentencePiece model",
            next_step="fetch the file again; a Git LFS pointer in its place is a common cause",
        ) from error


def _decode(data: bytes, path: Path) -> Model:
    pieces: list[str] = []
    scores: list[float] = []
    types: list[TokenType] = []
    trainer: dict[int, _Value] = {}
    normalizer: dict[int, _Value] = {}
    for field, value in _fields(data):
        if field == 1:
            piece = dict(_fields(_as_bytes(value)))
            pieces.append(_as_bytes(piece.get(1, b"")).decode("utf-8"))
            scores.append(struct.unpack("<f", _as_bytes(piece.get(2, bytes(4))))[0])
            types.append(TokenType(piece.get(3, 1)))
        elif field == 2:
            trainer |= dict(_fields(_as_bytes(value)))
        elif field == 3:
            normalizer |= dict(_fields(_as_bytes(value)))
    if not pieces:
        raise ValueError("no pieces")
    kind = trainer.get(3, 1)
    if kind not in _KINDS:
        found = f"model_type {kind!r}"
        raise UnsupportedModelError(
            "a kind of SentencePiece", path=path, found=found, expected="BPE or unigram"
        )
    numbers = {"unknown": (40, 0), "bos": (41, 1), "eos": (42, 2), "padding": (43, -1)}
    ids = {name: trainer.get(field, default) for name, (field, default) in numbers.items()}
    return Model(
        path=path,
        kind=_KINDS[int(kind)],
        pieces=pieces,
        scores=scores,
        types=types,
        ids={name: int(value) for name, value in ids.items() if 0 <= int(value) < len(pieces)},
        byte_fallback=bool(trainer.get(35, 0)),
        suffix=bool(trainer.get(24, 0)),
        charsmap=_as_bytes(normalizer.get(2, b"")),
        dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        escape_whitespaces=bool(normalizer.get(5, 1)),
    )


def _as_bytes(value: _Value) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a field of the wrong type")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, _Value]]:
    """Every field of a message: numbers as they are, the rest as bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            number, at = _varint(data, at)
            yield key >> 3, number
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if size > end - at:
            raise ValueError(f"a field at byte {at} goes beyond the end")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return (value - (1 << 64) if value >> 63 else value), at
        shift += 7
    raise ValueError(f"a number at byte {at} doesn't end")
