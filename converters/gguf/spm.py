"""SentencePiece BPE, from tokenizer.json with byte fallback or from tokenizer.model: llama.cpp's "llama" tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gguf import TokenType

from edgekit.converters.gguf import pieces, sentencepiece, spaces, tokenizer_json
from edgekit.converters.gguf.pieces import ADDED_SCORE, PAD_SCORE, put_added
from edgekit.converters.gguf.sentencepiece import SPACE
from edgekit.converters.gguf.tokenizer_json import AddedToken, Slots, TokenizerJson
from edgekit.converters.gguf.vocabulary import Limit, Surroundings, Vocabulary
from edgekit.errors import UnsupportedModelError
from edgekit.files import inside

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def convert(tokenizer: TokenizerJson, files: Surroundings, size: int) -> Vocabulary:
    """The vocabulary of a tokenizer.json; scores are tokenizer.model's where that agrees, else the merges' ranks."""
    path = inside(files.folder, tokenizer_json.FILE)
    model = tokenizer.model
    with tokenizer_json.malformed(path):
        vocab: dict[str, int] = dict(model.vocab)
        prefix = spaces.prefix(tokenizer, path)
        scores = _scores(files.folder, vocab, model.pairs())
        unknown = model.unk_token
    slots = _slots(tokenizer, vocab, size, path)
    template = files.chat_template()
    ids = {"unknown": vocab[unknown]} if unknown in vocab else {}
    with tokenizer_json.malformed(path):
        ids |= tokenizer_json.special_ids(tokenizer, files, size)
        add = tokenizer_json.additions(tokenizer, files, ids)
    limits, opening = _first_limit(prefix, slots.tokens, ids, path)
    phi_3 = tokenizer_json.strips_as_phi_3(tokenizer.added_tokens)
    if not phi_3:
        limits += tokenizer_json.strip_limits(tokenizer.added_tokens, template, path)
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=slots.tokens,
        types=slots.types,
        merges=(),
        ids=ids,
        add=add,
        chat_template=template,
        file=tokenizer_json.FILE,
        ends=frozenset(files.ends(size)),
        scores=[
            scores.get(token, PAD_SCORE if kind == TokenType.UNUSED else ADDED_SCORE)
            for token, kind in zip(slots.tokens, slots.types, strict=True)
        ],
        flags={} if prefix == "always" else {"add_space_prefix": False},
        limits=limits,
        opening=opening,
        name_parts=("phi-3", "phi3") if phi_3 else (),
    )


def _slots(tokenizer: TokenizerJson, vocab: Mapping[str, int], size: int, path: Path) -> Slots:
    _check_bytes(vocab, path)
    slots = Slots(size, path)
    for token, index in vocab.items():
        kind = TokenType.BYTE if _BYTE.fullmatch(token) else TokenType.NORMAL
        slots.put(token, index, TokenType.UNKNOWN if token == tokenizer.model.unk_token else kind)
    put_added(slots, tokenizer.added_tokens, {left + right for left, right in tokenizer.model.pairs()})
    return slots


def from_model(model: sentencepiece.Model, files: Surroundings, size: int) -> Vocabulary:
    """The vocabulary of a tokenizer.model alone, proved against ``tokenizers`` with the merges that its scores mean."""
    vocab = {piece: index for index, piece in enumerate(model.pieces)}
    if model.suffix or model.charsmap or model.remove_extra_whitespaces or not model.escape_whitespaces:
        raise UnsupportedModelError(
            "llama.cpp doesn't prepare text for this SentencePiece BPE as its file says",
            path=model.path,
            found=f"charsmap of {len(model.charsmap)} bytes, remove_extra_whitespaces {model.remove_extra_whitespaces}, "
            f"escape_whitespaces {model.escape_whitespaces}, treat_whitespace_as_suffix {model.suffix}",
            expected="none of them but escape_whitespaces",
        )
    _check_bytes(vocab, model.path)
    template = files.chat_template()
    found = pieces.fill(model, files, size, template)
    config = files.tokenizer_config
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=found.slots.tokens,
        types=found.slots.types,
        merges=(),
        ids=found.ids,
        add={"bos": bool(config.get("add_bos_token", True)), "eos": bool(config.get("add_eos_token", False))},
        chat_template=template,
        file=sentencepiece.FILE,
        ends=frozenset(files.ends(size)),
        scores=found.scores,
        flags={} if model.dummy_prefix else {"add_space_prefix": False},
        reference=partial(_reference, model, found.slots, found.added),
        limits=found.limits,
    )


def _scores(folder: Path, vocab: Mapping[str, int], pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Each piece's priority: llama.cpp merges the pair whose joined piece has the highest score first."""
    if (folder / sentencepiece.FILE).exists():
        model = sentencepiece.read(folder)
        if all(vocab.get(piece) == index for index, piece in enumerate(model.pieces)):
            return dict(zip(model.pieces, model.scores, strict=True))
    scores: dict[str, float] = {}
    for left, right in pairs:
        scores.setdefault(left + right, -float(len(scores)))
    lowest = -float(len(scores))
    return {piece: 0.0 if _BYTE.fullmatch(piece) else scores.get(piece, lowest) for piece in vocab}


def _check_bytes(vocab: Mapping[str, int], path: Path) -> None:
    """llama.cpp throws on a byte that it has no token for."""
    missing = [piece for piece in (f"<0x{byte:02X}>" for byte in range(256)) if piece not in vocab]
    if missing:
        raise UnsupportedModelError(
            f"{len(missing)} pieces for single bytes are missing, which llama.cpp falls back to",
            path=path,
            found=", ".join(missing[:4]),
            expected="<0x00> to <0xFF>",
        )


def _first_limit(
    prefix: str, tokens: Sequence[str], ids: Mapping[str, int], path: Path
) -> tuple[tuple[Limit, ...], str]:
    """A space put before the first word only, not after special tokens: llama.cpp knows all or none."""
    if prefix != "first":
        return (), ""
    if "bos" not in ids:
        raise UnsupportedModelError(
            "llama.cpp can't put a space before a text's first word alone",
            path=path,
            found="prepend_scheme first",
        )
    note = "llama.cpp puts no space before a text that begins without a special token: begin it with one yourself"
    return (Limit(note, lambda _: False),), tokens[ids["bos"]]


def _reference(model: sentencepiece.Model, slots: Slots, added: Sequence[AddedToken]) -> str:
    """The tokenizer.json of a tokenizer.model, as transformers' SentencePieceExtractor derives its merges."""
    vocab = dict(zip(slots.tokens, range(len(slots.tokens)), strict=True))
    known = {
        p: s
        for p, s, kind in zip(model.pieces, model.scores, model.types, strict=True)
        if kind == TokenType.NORMAL
    }
    merges: list[tuple[float, int, int, str, str]] = []
    for piece, score in known.items():
        for at in range(1, len(piece)):
            left, right = piece[:at], piece[at:]
            if left in known and right in known:
                merges.append((-score, vocab[left], vocab[right], left, right))
    merges.sort()
    strips = {token.id: token for token in added}
    special = {TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED}
    tokens: list[dict[str, Any]] = [
        {
            "id": i, "content": text, "single_word": False, "normalized": False,
            "lstrip": i in strips and strips[i].lstrip, "rstrip": i in strips and strips[i].rstrip,
            "special": kind != TokenType.USER_DEFINED,
        }
        for i, (text, kind) in enumerate(zip(slots.tokens, slots.types, strict=True)) if kind in special
    ]  # fmt: skip
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": SPACE}] if model.dummy_prefix else []
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    bpe = {
        "type": "BPE", "vocab": vocab, "merges": [[left, right] for *_, left, right in merges],
        "byte_fallback": True, "fuse_unk": True, "unk_token": slots.tokens[model.ids.get("unknown", 0)],
    }  # fmt: skip
    normalizer = {"type": "Sequence", "normalizers": steps}
    return json.dumps({"version": "1.0", "added_tokens": tokens, "normalizer": normalizer, "model": bpe})
