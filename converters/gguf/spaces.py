"""How a SentencePiece-like tokenizer.json turns spaces into pieces: by a normalizer, or by Metaspace."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.converters.gguf.sentencepiece import SPACE
from edgekit.converters.gguf.tokenizer_json import TokenizerJson
from edgekit.errors import UnsupportedModelError

_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_NO_EFFECT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
"""Gemma's: there are no spaces left to split at."""


def prefix(tokenizer: TokenizerJson, path: Path) -> str:
    """Where a space is put before text: always, first or never; ``UnsupportedModelError`` names a step llama.cpp lacks."""
    found, replaced = "never", False
    for step in flat(tokenizer.normalizer, "normalizers"):
        if step == {"type": "Prepend", "prepend": SPACE} and not replaced:
            found = "always"
        elif step == _REPLACE:
            replaced = True
        else:
            raise _unknown("normalizer", step, path)
    for step in flat(tokenizer.pre_tokenizer, "pretokenizers"):
        if step.get("type") == "Metaspace" and step.get("replacement", SPACE) == SPACE:
            if step.get("split", True):
                raise _unknown("pre-tokenizer", step, path)
            default = "always" if step.get("add_prefix_space", True) else "never"
            found, replaced = step.get("prepend_scheme", default), True
        elif step != _NO_EFFECT or not replaced:
            raise _unknown("pre-tokenizer", step, path)
    if not replaced:
        raise _unknown("normalizer", tokenizer.normalizer or {"type": "none"}, path)
    return found


def flat(step: Mapping[str, Any] | None, parts: str) -> list[dict[str, Any]]:
    if not step:
        return []
    if step.get("type") == "Sequence":
        return [inner for part in step[parts] for inner in flat(part, parts)]
    return [dict(step)]


def _unknown(what: str, step: Mapping[str, Any], path: Path) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"llama.cpp's SentencePiece tokenizer doesn't run this {what}",
        path=path,
        found=str(dict(step))[:300],
        expected=f"Prepend {SPACE}, Replace of spaces by {SPACE}, or a Metaspace that doesn't split",
    )
