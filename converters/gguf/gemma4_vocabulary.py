"""Gemma 4's tokenizer: SentencePiece's pieces, but merged by rank; llama.cpp's "gemma4" tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gguf import TokenType

from edgekit.converters.gguf import spm, tokenizer_json
from edgekit.converters.gguf.pieces import ADDED_SCORE
from edgekit.converters.gguf.sentencepiece import SPACE
from edgekit.converters.gguf.tokenizer_json import TokenizerJson
from edgekit.converters.gguf.vocabulary import Surroundings, Vocabulary
from edgekit.errors import UnsupportedModelError
from edgekit.files import inside

ARCHITECTURE = "Gemma4ForCausalLM"
SHOWN = frozenset({
    "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>',
})  # fmt: skip
"""Control tokens that llama.cpp's converter lets appear in answers, as its parsers of tool calls read them."""


def is_gemma4(config: Mapping[str, Any]) -> bool:
    """Whether a model is one that llama.cpp tokenizes so."""
    named = config.get("architectures")
    return isinstance(named, list) and ARCHITECTURE in named


def convert(tokenizer: TokenizerJson, files: Surroundings, size: int) -> Vocabulary:
    """The vocabulary of a tokenizer.json with byte fallback; merges decide, and all scores are the same."""
    path = inside(files.folder, tokenizer_json.FILE)
    pieces = spm.convert(tokenizer, files, size)
    if pieces.flags.get("add_space_prefix", True) or pieces.opening:
        raise UnsupportedModelError(
            "llama.cpp puts no space before text in Gemma 4's tokenizer",
            path=path,
            found="one that does",
            expected=f"a Replace of spaces by {SPACE} alone",
        )
    pairs = tokenizer.model.pairs()
    if odd := [pair for pair in pairs if not _is_run(pair[0] + pair[1])]:
        raise UnsupportedModelError(
            "merges that llama.cpp doesn't make: it splits text at line ends",
            path=path,
            found=", ".join(map(repr, odd[:3])),
            expected="pieces without spaces, and of line ends or of none",
        )
    if "bos" not in pieces.ids:
        raise UnsupportedModelError(
            "llama.cpp begins Gemma 4's texts with a bos", path=path, found="no bos_token", expected="one"
        )
    kinds = zip(pieces.tokens, pieces.types, strict=True)
    return replace(
        pieces,
        model="gemma4",
        pre="",
        types=[TokenType.USER_DEFINED if token in SHOWN else kind for token, kind in kinds],
        merges=[f"{left} {right}" for left, right in pairs],
        scores=[ADDED_SCORE] * size,
        add={**pieces.add, "bos": True},
    )


def _is_run(piece: str) -> bool:
    return " " not in piece and ("\n" not in piece or not piece.strip("\n"))
