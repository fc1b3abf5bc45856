"""Pre-tokenizers that llama.cpp knows, recognised by what tokenizer.json says, not by a hash of what it does."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgekit.converters.gguf.vocabulary import Limit
from edgekit.errors import UnsupportedModelError

_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDS: Final = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_TAIL: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + _ENDS
_WORD: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
LLAMA_3: Final = _CONTRACTIONS + "|" + _WORD + r"|\p{N}{1,3}" + _TAIL
QWEN_2: Final = _CONTRACTIONS + "|" + _WORD + r"|\p{N}" + _TAIL
_QWEN_35 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _ENDS
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_SLASHED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _ENDS
_GPT_4O = "|".join(part + _CONTRACTIONS + "?" for part in _CASED) + r"|\p{N}{1,3}" + _SLASHED
TEKKEN: Final = "|".join(_CASED) + r"|\p{N}" + _SLASHED
_SEED = _CONTRACTIONS + "|" + _WORD + r"|\p{N}| ?[^\s\p{L}\p{N}\r\n]+" + _ENDS
_UFAKZEKA = _WORD + r"|\p{N}" + _TAIL
_MINICPM = _CONTRACTIONS + "|" + _WORD + r"|\p{N}+" + _TAIL
_RUNS = "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
_JAIS_2 = LLAMA_3.removesuffix(r"\s+(?!\S)|\s+") + _RUNS + r"|\s{1,2}(?!\S)|\s{1}"
_EXAONE_MOE = (
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
    + _ENDS
)
_KANA, _HAN = r"[一-龥぀-ゟ゠-ヿ]+", "[一-龥ࠀ-一가-퟿]+"
_DEEPSEEK_V3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*" + _ENDS
)
_LETTERS = (
    r"\s?["
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ"
    "Ὗ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ"
    "-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-"
    "\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)
_PUNCTUATION = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"
_BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"

_O200K: Final = "granite-embed-multi-97m"
"""GPT-4o's pattern with combining marks, in llama.cpp only for vocabularies that ignore merges."""
_BYTES = ("ByteLevel", False)
_GPT2 = ("ByteLevel", True)
_DIGIT = ("Digits", True)
_BREAKS = ("Split", r"[\r\n]")

_KNOWN: dict[tuple[Any, ...], dict[bool, str]] = {
    (("Split", LLAMA_3), _BYTES): {True: "llama-bpe", False: "smaug-bpe"},
    (("Split", QWEN_2), _BYTES): {False: "qwen2"},
    (("Split", _QWEN_35), _BYTES): {False: "qwen35"},
    (("Split", _GPT_4O), _BYTES): {False: "gpt-4o", True: _O200K},
    (("Split", TEKKEN), _BYTES): {False: "tekken", True: "tekken"},
    (("Split", _SEED), _BYTES): {False: "seed-coder"},
    (("Split", _UFAKZEKA), _BYTES): {False: "ufakzeka"},
    (("Split", _JAIS_2), _BYTES): {False: "jais-2"},
    (("Split", _EXAONE_MOE), _BYTES): {False: "exaone-moe"},
    (("Split", r"\p{N}{1,3}"), ("Split", _MINICPM), _BYTES): {True: "minicpm5"},
    (("Split", r"[^\n]+|[\n]+"), ("Split", QWEN_2), _BYTES): {False: "laguna"},
    (("Split", r"\p{N}{1,3}"), ("Split", _KANA), ("Split", _DEEPSEEK_V3), _BYTES): {False: "deepseek-v3"},
    (_BREAKS, ("Split", r"\s?\p{L}+"), ("Split", r"\s?\p{P}+"), ("Split", _HAN), _DIGIT, _BYTES): {
        False: "deepseek-coder"
    },
    (
        _BREAKS, ("Split", _LETTERS), ("Split", _PUNCTUATION), ("Split", r"\s+$"),
        ("Split", _HAN), _DIGIT, _BYTES,
    ): {False: "deepseek-llm"},
    (_GPT2,): {False: "gpt-2"},
    (_DIGIT, _GPT2): {False: "smollm"},
    (("Punctuation", "Contiguous"), _GPT2, ("Digits", False), ("Split", "[0-9][0-9][0-9]")): {False: "falcon"},
    (("Split", _BLOOM), _BYTES): {False: "bloom"},
    (("Split", _BLOOM), _DIGIT, _BYTES): {False: "viking"},
}  # fmt: skip
"""Structure -> (ignore_merges -> llama.cpp's name). Proved on probe strings before anything is packed.

Several names do the same; the one here is of the best known model (StarCoder's and Granite's are SmolLM's, OLMo 2's,
DBRX's and Phi-4's are Smaug's).
"""

_WITH_NFC = {"gpt-2": "olmo", "smollm": "command-r"}
"""Names that llama.cpp's converter gives those who also normalize; they split alike."""

_POSSESSIVE = re.compile(r"(?<=[\]}][?+*])\+")


def composes(normalizer: Mapping[str, Any] | None, path: Path) -> bool:
    """Whether the normalizer is NFC; ``UnsupportedModelError`` for another one, which llama.cpp doesn't run."""
    if not normalizer:
        return False
    steps = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
    for step in steps:
        if step.get("type") != "NFC":
            raise UnsupportedModelError(
                "llama.cpp doesn't run this normalizer",
                path=path,
                found=str(dict(step))[:300],
                expected="none, or NFC",
            )
    return bool(steps)


def find(pre_tokenizer: Mapping[str, Any] | None, ignore_merges: bool, nfc: bool, path: Path) -> str:
    """llama.cpp's name of a byte-level pre-tokenizer; ``UnsupportedModelError`` says which step it doesn't know."""
    steps = structure(pre_tokenizer)
    names = _KNOWN.get(steps, {})
    if name := names.get(ignore_merges):
        return _WITH_NFC.get(name, name) if nfc else name
    known = {step for structure in _KNOWN for step in structure}
    unknown = [f"step {i} of {len(steps)}, {kind}: {value}" for i, (kind, value) in enumerate(steps, 1)
               if (kind, value) not in known]  # fmt: skip
    if names:
        found = f"ignore_merges {ignore_merges} with the splitting of {next(iter(names.values()))}"
    else:
        found = unknown[0] if unknown else "; ".join(f"{kind}: {value}" for kind, value in steps) or "none"
    raise UnsupportedModelError(
        "llama.cpp has no pre-tokenizer of this structure that edgekit knows",
        path=path,
        found=found[:500],
        expected="the steps of one of "
        + ", ".join(sorted({n for known in _KNOWN.values() for n in known.values()})),
    )


def structure(pre_tokenizer: Mapping[str, Any] | None) -> tuple[tuple[Any, Any], ...]:
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
    if kind == "Punctuation" and pre_tokenizer.get("behavior") == "Contiguous":
        return (("Punctuation", "Contiguous"),)
    if kind == "Split":
        pattern = (pre_tokenizer.get("pattern") or {}).get("Regex")
        # Removing what doesn't match keeps the matches, and these patterns leave nothing else.
        how = (pre_tokenizer.get("behavior"), bool(pre_tokenizer.get("invert")))
        if isinstance(pattern, str) and how in {("Isolated", False), ("Removed", True)}:
            return (("Split", _plain(pattern)),)
    options = {key: value for key, value in pre_tokenizer.items() if key != "type"}
    return ((kind, str(options)),)


def _plain(pattern: str) -> str:
    """One spelling for patterns that match alike: tiktoken's for contractions and without backtracking, and Llama 3's."""
    if pattern == r"\p{N}":
        return pattern
    pattern = _POSSESSIVE.sub("", pattern)
    for other, usual in (
        (r"'(?i:[sdmt]|ll|ve|re)", _CONTRACTIONS),
        (r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", _CONTRACTIONS),
        (r"\p{N}{1}|", r"\p{N}|"),
        (r"\s*[\r\n]|", r"\s*[\r\n]+|"),
        ("\r", r"\r"),
        ("\n", r"\n"),
    ):
        pattern = pattern.replace(other, usual)
    return pattern


def limits(pre: str, nfc: bool) -> tuple[Limit, ...]:
    """What llama.cpp does otherwise than the tokenizer in texts of some kinds."""
    found = []
    if nfc:
        note = "llama.cpp doesn't compose accents (NFC): normalize text yourself before it gets here"
        found.append(Limit(note, lambda text: not unicodedata.is_normalized("NFC", text)))
    if pre in {"tekken", "gpt-4o"}:
        note = (
            f"llama.cpp's {pre} splits off combining marks, such as the vowel signs of Indic and Khmer text"
        )
        found.append(Limit(note, lambda text: any(unicodedata.category(c)[0] == "M" for c in text)))
    if pre in {"tekken", "gpt-4o", _O200K}:
        note = f"llama.cpp's {pre} takes capitals beyond A to Z for small letters too, as in MÜNCHEN or ПриветМир"
        found.append(Limit(note, _splits_by_case))
    return tuple(found)


_CLASSES = {"Lu": "U", "Lt": "U", "Ll": "l", "Lm": "o", "Lo": "o"}
_TRUE_CASE = re.compile("[UAo]*[alo]+|[UAo]+[alo]*|.")
_ASCII_CASE = re.compile("[UlAo]*[Ulao]+|[UlAo]+[Ulao]*|.")
"""The patterns over a letter's class: A to Z, a to z, other capitals, other small letters, letters without case."""


def _splits_by_case(text: str) -> bool:
    """Whether words are split elsewhere by llama.cpp, which knows case from A to Z only."""
    classes = "".join(
        ("A" if c.isupper() else "a")
        if c.isascii() and c.isalpha()
        else _CLASSES.get(unicodedata.category(c), " ")
        for c in text
        if unicodedata.category(c)[0] != "M"
    )
    return _TRUE_CASE.findall(classes) != _ASCII_CASE.findall(classes)
