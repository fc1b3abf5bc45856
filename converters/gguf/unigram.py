"""Unigram, from tokenizer.json or from SentencePiece's tokenizer.model: llama.cpp's "t5" tokenizer."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from gguf import TokenType

from edgekit.converters.gguf import pieces, sentencepiece, tokenizer_json
from edgekit.converters.gguf.pieces import PAD_SCORE, put_added
from edgekit.converters.gguf.sentencepiece import SPACE
from edgekit.converters.gguf.spaces import flat
from edgekit.converters.gguf.tokenizer_json import Slots, TokenizerJson
from edgekit.converters.gguf.vocabulary import Limit, Surroundings, Vocabulary
from edgekit.errors import UnsupportedModelError
from edgekit.files import inside

_RUNS = {"type": "Replace", "pattern": {"Regex": " {2,}"}}

_MARKS = Limit(
    "two combining marks in a row are not proved: tokenizers, which the proof asks, loses one that SentencePiece "
    "and llama.cpp keep",
    lambda text: any(unicodedata.combining(a) and unicodedata.combining(b) for a, b in pairwise(text)),
)


@dataclass
class _Text:
    """How text is prepared for the pieces."""

    charsmap: bytes = b""
    prefix: bool = False
    merge_spaces: bool = False

    def flags(self) -> dict[str, bool]:
        return {"add_space_prefix": self.prefix, "remove_extra_whitespaces": self.merge_spaces}


def convert(tokenizer: TokenizerJson, files: Surroundings, size: int) -> Vocabulary:
    """The vocabulary of a tokenizer.json of type Unigram."""
    path = inside(files.folder, tokenizer_json.FILE)
    model = tokenizer.model
    with tokenizer_json.malformed(path):
        pieces = [(str(piece), float(score)) for piece, score in model.vocab]
        text = _prepared(tokenizer, path)
        unknown = pieces[model.unk_id if model.unk_id is not None else len(pieces)][0]
    if model.byte_fallback:
        raise _no_bytes(path)
    slots = Slots(size, path)
    for index, (piece, _) in enumerate(pieces):
        slots.put(piece, index, TokenType.UNKNOWN if piece == unknown else TokenType.NORMAL)
    put_added(slots, tokenizer.added_tokens)
    with tokenizer_json.malformed(path):
        ids = {"unknown": model.unk_id or 0} | tokenizer_json.special_ids(tokenizer, files, size)
        add = {"eos": False} | tokenizer_json.additions(tokenizer, files, ids)
    template = files.chat_template()
    known = dict(pieces)
    return Vocabulary(
        model="t5",
        pre="default",
        tokens=slots.tokens,
        types=slots.types,
        merges=(),
        ids=ids,
        add=add,
        chat_template=template,
        file=tokenizer_json.FILE,
        ends=frozenset(files.ends(size)),
        scores=[known.get(token, PAD_SCORE) for token in slots.tokens],
        flags=text.flags(),
        charsmap=text.charsmap,
        limits=tokenizer_json.strip_limits(tokenizer.added_tokens, template, path),
    )


def from_model(model: sentencepiece.Model, files: Surroundings, size: int) -> Vocabulary:
    """The vocabulary of a tokenizer.model of type unigram, proved against ``tokenizers`` prepared as its file says."""
    if model.byte_fallback:
        raise _no_bytes(model.path)
    if model.suffix or not model.escape_whitespaces:
        raise UnsupportedModelError(
            "llama.cpp doesn't run this kind of SentencePiece unigram",
            path=model.path,
            found=f"treat_whitespace_as_suffix {model.suffix}, escape_whitespaces {model.escape_whitespaces}",
        )
    template = files.chat_template()
    found = pieces.fill(model, files, size, template)
    text = _Text(model.charsmap, model.dummy_prefix, model.remove_extra_whitespaces)
    config = files.tokenizer_config
    return Vocabulary(
        model="t5",
        pre="default",
        tokens=found.slots.tokens,
        types=found.slots.types,
        merges=(),
        ids=found.ids,
        add={"bos": bool(config.get("add_bos_token", False)), "eos": bool(config.get("add_eos_token", True))},
        chat_template=template,
        file=sentencepiece.FILE,
        ends=frozenset(files.ends(size)),
        scores=found.scores,
        flags=text.flags(),
        charsmap=model.charsmap,
        reference=partial(_reference, found.slots, found.scores, text, model.ids.get("unknown", 0)),
        limits=found.limits + ((_MARKS,) if model.charsmap else ()),
    )


def _no_bytes(path: Path) -> UnsupportedModelError:
    return UnsupportedModelError(
        "llama.cpp's unigram tokenizer has no byte fallback",
        path=path,
        found="byte_fallback",
        expected="none",
    )


def _prepared(tokenizer: TokenizerJson, path: Path) -> _Text:
    """What normalizer and pre-tokenizer do, where llama.cpp does it too; else the step is named."""
    text, merges = _Text(), dict(_RUNS)
    for step in flat(tokenizer.normalizer, "normalizers"):
        content = step.pop("content", " ")
        if step.get("type") == "Precompiled":
            text.charsmap = base64.b64decode(step["precompiled_charsmap"], validate=True)
        elif step == merges and content in {" ", SPACE} or step.get("type") == "Strip":
            text.merge_spaces = True
        else:
            raise _unknown(step, path)
    for step in flat(tokenizer.pre_tokenizer, "pretokenizers"):
        kind = step.get("type")
        if kind == "WhitespaceSplit":
            text.merge_spaces = True
        elif kind == "Metaspace" and step.get("replacement", SPACE) == SPACE:
            default = "always" if step.get("add_prefix_space", True) else "never"
            scheme = step.get("prepend_scheme", default)
            if scheme == "first":
                raise _unknown(step, path)
            text.prefix = scheme == "always"
        else:
            raise _unknown(step, path)
    return text


def _unknown(step: Mapping[str, Any], path: Path) -> UnsupportedModelError:
    return UnsupportedModelError(
        "llama.cpp's unigram tokenizer doesn't run this step",
        path=path,
        found=str(dict(step))[:300],
        expected="Precompiled, Replace of runs of spaces, Strip, WhitespaceSplit or Metaspace",
    )


def _reference(slots: Slots, scores: list[float], text: _Text, unknown: int) -> str:
    """The tokenizer.json of a unigram tokenizer.model, its text prepared as SentencePiece does."""
    steps: list[dict[str, Any]] = []
    if text.charsmap:
        encoded = base64.b64encode(text.charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": encoded})
    if text.merge_spaces:
        steps.append({"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if text.prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    special = {TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED}
    added = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": kind != TokenType.USER_DEFINED}
        for i, (token, kind) in enumerate(zip(slots.tokens, slots.types, strict=True)) if kind in special
    ]  # fmt: skip
    model = {
        "type": "Unigram", "unk_id": unknown, "byte_fallback": False,
        "vocab": [list(pair) for pair in zip(slots.tokens, scores, strict=True)],
    }  # fmt: skip
    normalizer = {"type": "Sequence", "normalizers": steps}
    return json.dumps({"version": "1.0", "added_tokens": added, "normalizer": normalizer, "model": model})
