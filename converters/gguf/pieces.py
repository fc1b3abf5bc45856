"""The slots of a tokenizer.model, BPE or unigram: its pieces, and the tokens that files beside it add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from gguf import TokenType

from edgekit.converters.gguf import sentencepiece, tokenizer_json
from edgekit.converters.gguf.sentencepiece import SPACE
from edgekit.converters.gguf.tokenizer_json import AddedToken, Slots
from edgekit.converters.gguf.vocabulary import Limit, Surroundings
from edgekit.files import MALFORMED, inside, read_json

ADDED_SCORE, PAD_SCORE = -1000.0, -10000.0
"""What llama.cpp's converter gives tokens that no merge should make."""


@dataclass(frozen=True)
class Pieces:
    """A tokenizer.model's tokens by id, their scores, those that were added to them, and the special ids."""

    slots: Slots
    scores: list[float]
    added: Sequence[AddedToken]
    ids: dict[str, int]
    limits: tuple[Limit, ...]


def fill(model: sentencepiece.Model, files: Surroundings, size: int, template: str | None) -> Pieces:
    """All slots of a model whose embedding has ``size`` rows."""
    slots = Slots(size, model.path)
    for index, (piece, kind) in enumerate(zip(model.pieces, model.types, strict=True)):
        if kind == TokenType.USER_DEFINED and " " in piece:
            kind = TokenType.NORMAL  # never found, as text holds no spaces when SentencePiece looks for it
        text = piece.replace(SPACE, " ") if kind == TokenType.USER_DEFINED else piece
        slots.put(text, index, kind)
    added = added_tokens(files)
    put_added(slots, added, replace=True)
    scores = [*model.scores, *[PAD_SCORE] * (size - len(model.scores))]
    for token in added:
        scores[token.id] = ADDED_SCORE
    controls = {t: i for i, t in enumerate(slots.tokens) if slots.types[i] != TokenType.NORMAL}
    limits = tokenizer_json.strip_limits(added, template, model.path)
    return Pieces(
        slots, scores, added, model.ids | files.special_ids(controls, size), limits + _own_limits(model)
    )


def _own_limits(model: sentencepiece.Model) -> tuple[Limit, ...]:
    """SentencePiece puts one space before a text; llama.cpp one behind every user-defined token too, none before it."""
    named = [
        piece.replace(SPACE, " ")
        for piece, kind in zip(model.pieces, model.types, strict=True)
        if kind == TokenType.USER_DEFINED and " " not in piece
    ]
    if not named or not model.dummy_prefix:
        return ()
    note = (
        f"llama.cpp begins anew with a space behind {', '.join(named[:3])}{' …' if len(named) > 3 else ''}, "
        "where SentencePiece doesn't"
    )
    return (Limit(note, lambda text: any(token in text for token in named)),)


def added_tokens(files: Surroundings) -> list[AddedToken]:
    """Tokens of added_tokens.json and of tokenizer_config.json's ``added_tokens_decoder``."""
    found: dict[int, AddedToken] = {}
    with tokenizer_json.malformed(files.folder / "added_tokens.json"):
        if (files.folder / "added_tokens.json").exists():
            for text, index in read_json(inside(files.folder, "added_tokens.json")).items():
                found[int(index)] = AddedToken(int(index), str(text))
    path = files.folder / "tokenizer_config.json"
    with tokenizer_json.malformed(path):
        for key, entry in files.tokenizer_config.get("added_tokens_decoder", {}).items():
            try:
                found[int(key)] = msgspec.convert({"id": int(key)} | entry, AddedToken)
            except MALFORMED as error:
                raise ValueError(str(error)) from error
    return list(found.values())


def put_added(
    slots: Slots, added: Sequence[AddedToken], merged: set[str] | None = None, *, replace: bool = False
) -> None:
    """Put added tokens over the pieces; those in ``merged`` that hold spaces stay pieces."""
    for token in added:
        kind, text = tokenizer_json.added_type(token), token.content
        before = slots.tokens[token.id] if 0 <= token.id < len(slots.tokens) else ""
        if kind == TokenType.USER_DEFINED and SPACE in text:
            if text in (merged or ()):
                continue  # found by merging, as text never holds it before spaces are replaced
            text = text.replace(SPACE, " ")
        if before and slots.types[token.id] == TokenType.UNKNOWN:
            kind = TokenType.UNKNOWN
        slots.put(text, token.id, kind, replace=replace or before == token.content)
    slots.check()
