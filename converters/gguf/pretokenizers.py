"""Pre-tokenizers that llama.cpp knows, recognised by what tokenizer.json says, not by a hash of what it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES = ("ByteLevel", False)
_GPT2 = ("ByteLevel", True)

_KNOWN: dict[tuple[Any, ...], dict[bool, str]] = {
    (("Split", _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL), _BYTES): {
        True: "llama-bpe",
        False: "smaug-bpe",
    },
    (("Split", _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL), _BYTES): {False: "qwen2"},
    (_GPT2,): {False: "gpt-2"},
    (("Digits", True), _GPT2): {False: "smollm"},
}
"""Structure -> (ignore_merges -> llama.cpp's name). Proved on probe strings before anything is packed.

Tekken's is left out: llama.cpp's version of its pattern splits the vowel signs of Indic and Khmer text off.
"""


def find(pre_tokenizer: Mapping[str, Any] | None, ignore_merges: bool) -> str | None:
    """llama.cpp's name of a byte-level pre-tokenizer, or None if it has none of this structure."""
    return _KNOWN.get(structure(pre_tokenizer), {}).get(ignore_merges)


def structure(pre_tokenizer: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """What a pre-tokenizer does, with everything that doesn't matter to it left out."""
    if not pre_tokenizer:
        return ()
    kind = pre_tokenizer.get("type")
    if kind == "Sequence":
        parts = pre_tokenizer.get("pretokenizers") or []
        return tuple(step for part in parts if isinstance(part, Mapping) for step in structure(part))
    if kind == "ByteLevel" and not pre_tokenizer.get("add_prefix_space"):
        return (("ByteLevel", bool(pre_tokenizer.get("use_regex", True))),)
    if kind == "Digits":
        return (("Digits", bool(pre_tokenizer.get("individual_digits"))),)
    if kind == "Split" and not pre_tokenizer.get("invert"):
        pattern = pre_tokenizer.get("pattern") or {}
        if pre_tokenizer.get("behavior") == "Isolated" and isinstance(pattern.get("Regex"), str):
            return (("Split", pattern["Regex"]),)
    return ((kind, str(dict(pre_tokenizer))),)
