"""Byte-level BPE from tokenizer.json: GPT-2's, Llama 3's and their kin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from gguf import TokenType

from edgekit.converters.gguf import pretokenizers
from edgekit.converters.gguf.vocabulary import Surroundings, Vocabulary
from edgekit.errors import InputError, UnsupportedModelError
from edgekit.files import MALFORMED, inside, read_bounded

FILE = "tokenizer.json"


class _AddedToken(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _Model(msgspec.Struct):
    vocab: Any = None
    type: str = "BPE"
    merges: list[str | tuple[str, str]] = []
    byte_fallback: bool | None = False
    ignore_merges: bool | None = False


class _Tokenizer(msgspec.Struct):
    model: _Model
    added_tokens: list[_AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None


def read(folder: Path, config: Mapping[str, Any], size: int) -> Vocabulary:
    """The vocabulary of a checkpoint whose embedding has ``size`` rows; ids that no token has are padding."""
    path = inside(folder, FILE)
    try:
        tokenizer = msgspec.json.decode(read_bounded(path), type=_Tokenizer)
    except MALFORMED as error:
        raise InputError("not a readable tokenizer.json", path=path, found=str(error)) from error
    with _malformed(path):
        pre = _check_kind(tokenizer, path)
    tokens, types = _tokens(tokenizer, size, path)
    files = Surroundings.read(folder, config)
    ids = files.special_ids({t.content: t.id for t in tokenizer.added_tokens}, size)
    with _malformed(path):
        add = _additions(tokenizer, files, ids)
    return Vocabulary(
        model="gpt2",
        pre=pre,
        tokens=tokens,
        types=types,
        merges=[_merge(pair) for pair in tokenizer.model.merges],
        ids=ids,
        add=add,
        chat_template=files.chat_template(),
        file=FILE,
        ends=frozenset(files.ends(size)),
    )


@contextmanager
def _malformed(path: Path) -> Iterator[None]:
    """Parts of tokenizer.json that are of no fixed shape, walked over: what isn't as written there is malformed."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise InputError("tokenizer.json is malformed", path=path, found=str(error)) from error


def _check_kind(tokenizer: _Tokenizer, path: Path) -> str:
    """llama.cpp's name of the pre-tokenizer; ``UnsupportedModelError`` for a kind that isn't byte-level BPE."""
    model = tokenizer.model
    if model.type != "BPE" or model.byte_fallback or not isinstance(model.vocab, dict):
        kind = f"{model.type}{' with byte fallback (SentencePiece)' if model.byte_fallback else ''}"
        raise UnsupportedModelError(
            "a tokenizer of this kind isn't converted yet", path=path, found=kind, expected="byte-level BPE"
        )
    if tokenizer.normalizer:
        raise UnsupportedModelError(
            "llama.cpp doesn't run this normalizer",
            path=path,
            found=tokenizer.normalizer.get("type"),
            expected="none",
        )
    pre = pretokenizers.find(tokenizer.pre_tokenizer, bool(model.ignore_merges))
    if pre is None:
        raise UnsupportedModelError(
            "llama.cpp has no pre-tokenizer of this structure that edgekit knows",
            path=path,
            found=f"{str(tokenizer.pre_tokenizer)[:300]}, ignore_merges {bool(model.ignore_merges)}",
            expected="the one of Llama 3, Qwen 2, GPT-2 or SmolLM",
        )
    return pre


def _tokens(tokenizer: _Tokenizer, size: int, path: Path) -> tuple[list[str], list[TokenType]]:
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [TokenType.UNUSED] * size

    def put(token: Any, index: Any, kind: TokenType) -> None:
        if type(index) is not int or not 0 <= index < size:
            raise InputError(
                "the tokenizer doesn't match the model's vocabulary",
                path=path,
                found=f"token {token!r} with id {index}",
                expected=f"ids below {size}, the rows of the embedding",
                next_step="check that tokenizer.json is of this checkpoint, and that its embedding was resized",
            )
        tokens[index], types[index] = token, kind

    for token, index in tokenizer.model.vocab.items():
        put(token, index, TokenType.NORMAL)
    for added in tokenizer.added_tokens:
        special = added.special or _looks_special(added.content)
        put(added.content, added.id, TokenType.CONTROL if special else TokenType.USER_DEFINED)
    _check_distinct(tokens, path)
    return tokens, types


def _check_distinct(tokens: list[str], path: Path) -> None:
    """llama.cpp aborts on two tokens of the same text, and renames an empty one."""
    if len(set(tokens)) != len(tokens):
        first: dict[str, int] = {}
        for index, token in enumerate(tokens):
            if first.setdefault(token, index) != index:
                raise InputError(
                    "two tokens have the same text",
                    path=path,
                    found=f"{token!r} at ids {first[token]} and {index}",
                )
    if "" in tokens:
        raise InputError("a token is empty", path=path, found=f"id {tokens.index('')}", expected="text")


def _looks_special(text: str) -> bool:
    """Added tokens that models mark as ordinary although they control (llama.cpp's does_token_look_special)."""
    return (text.startswith("<|") and text.endswith("|>")) or text in {"<pad>", "<mask>"}


def _merge(pair: str | tuple[str, str]) -> str:
    """One merge as GGUF writes it: two pieces and a space; spaces inside a piece in byte-level code."""
    return pair if isinstance(pair, str) else " ".join(piece.replace(" ", "Ġ") for piece in pair)


def _additions(tokenizer: _Tokenizer, files: Surroundings, ids: Mapping[str, int]) -> dict[str, bool]:
    """Whether plain text gets a bos in front and an eos behind, where the post-processor or the config says."""
    single = _template(tokenizer.post_processor)
    texts = {token.id: token.content for token in tokenizer.added_tokens}
    add: dict[str, bool] = {}
    for name, at in (("bos", 0), ("eos", -1)):
        piece = single[at].get("SpecialToken", {}).get("id") if single else None
        if piece is not None:
            add[name] = piece == texts.get(ids.get(name, -1))
        elif isinstance(value := files.tokenizer_config.get(f"add_{name}_token"), bool):
            add[name] = value
    add.setdefault("bos", False)  # else llama.cpp decides by the pre-tokenizer's name
    return add


def _template(processor: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The ``single`` template of the post-processor, wherever it is nested; empty if there is none."""
    if not processor:
        return []
    if processor.get("type") == "TemplateProcessing":
        return [piece for piece in processor.get("single", []) if isinstance(piece, dict)]
    for part in processor.get("processors") or []:
        if found := _template(part):
            return found
    return []
