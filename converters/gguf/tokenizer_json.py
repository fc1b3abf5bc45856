"""tokenizer.json as Hugging Face's tokenizers writes it, decoded with bounds; what every kind reads from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from gguf import TokenType

from edgekit.converters.gguf.vocabulary import Limit, Surroundings
from edgekit.errors import InputError, UnsupportedModelError
from edgekit.files import MALFORMED, inside, read_bounded

FILE = "tokenizer.json"
_LOOKS_SPECIAL = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}


class AddedToken(msgspec.Struct):
    """A token that is found in the text before it is split."""

    id: int
    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class Model(msgspec.Struct):
    """The vocabulary and how it is searched; the shape of ``vocab`` depends on the type."""

    vocab: Any = None
    type: str = "BPE"
    merges: list[str | tuple[str, str]] = []
    byte_fallback: bool | None = False
    ignore_merges: bool | None = False
    unk_id: int | None = None
    unk_token: str | None = None

    def pairs(self) -> list[tuple[str, str]]:
        """Both parts of every merge."""
        split = [tuple(m.split(" ", 1)) if isinstance(m, str) else m for m in self.merges]
        return [(pair[0], pair[1]) for pair in split]


class TokenizerJson(msgspec.Struct):
    """The parts of the file that matter to ids."""

    model: Model
    added_tokens: list[AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None

    @property
    def added(self) -> dict[str, int]:
        """Added tokens' ids by text."""
        return {token.content: token.id for token in self.added_tokens}


def read(folder: Path) -> TokenizerJson:
    """Decode the folder's tokenizer.json, its merges checked against its vocabulary."""
    path = inside(folder, FILE)
    try:
        tokenizer = msgspec.json.decode(read_bounded(path), type=TokenizerJson)
    except MALFORMED as error:
        raise InputError("not a readable tokenizer.json", path=path, found=str(error)) from error
    with malformed(path):
        _check_merges(tokenizer.model, path)
    if words := [token.content for token in tokenizer.added_tokens if token.single_word]:
        raise UnsupportedModelError(
            "llama.cpp finds added tokens inside words too", path=path, found=f"single_word of {words[:4]}"
        )
    return tokenizer


@contextmanager
def malformed(path: Path) -> Iterator[None]:
    """Parts of tokenizer.json that are of no fixed shape, walked over: what isn't as written there is malformed."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(f"{path.name} is malformed", path=path, found=str(error)) from error


def _check_merges(model: Model, path: Path) -> None:
    if not model.merges or not isinstance(model.vocab, dict):
        return
    vocab = model.vocab
    missing = [
        piece for left, right in model.pairs() for piece in (left, right, left + right) if piece not in vocab
    ]
    if missing:
        raise InputError(
            f"{len(set(missing)):,} pieces of the merges are missing from the vocabulary",
            path=path,
            found=", ".join(map(repr, dict.fromkeys(missing[:3]))),
            expected="every part and every result of a merge in the vocabulary",
            next_step="take vocabulary and merges from the same tokenizer",
        )


class Slots:
    """Tokens by id, padded to the rows of the embedding."""

    def __init__(self, size: int, path: Path) -> None:
        self.path = path
        self.tokens = [f"[PAD{i}]" for i in range(size)]
        self.types = [TokenType.UNUSED] * size

    def put(self, token: Any, index: Any, kind: TokenType, *, replace: bool = False) -> None:
        """Set one token; ``InputError`` for an id that the embedding has no row for, or that another one has."""
        if type(index) is not int or not 0 <= index < len(self.tokens) or not isinstance(token, str):
            raise InputError(
                "the tokenizer doesn't match the model's vocabulary",
                path=self.path,
                found=f"token {token!r} with id {index}",
                expected=f"ids below {len(self.tokens)}, the rows of the embedding",
                next_step=f"check that {self.path.name} is of this checkpoint, and that its embedding was resized",
            )
        if self.types[index] != TokenType.UNUSED and self.tokens[index] != token and not replace:
            raise InputError(
                "two tokens have the same id",
                path=self.path,
                found=f"{self.tokens[index]!r} and {token!r} at {index}",
                expected="an id for each",
            )
        self.tokens[index], self.types[index] = token, kind

    def check(self) -> None:
        """llama.cpp aborts on two tokens of the same text, and renames an empty one."""
        if len(set(self.tokens)) != len(self.tokens):
            first: dict[str, int] = {}
            for index, token in enumerate(self.tokens):
                if first.setdefault(token, index) != index:
                    raise InputError(
                        "two tokens have the same text",
                        path=self.path,
                        found=f"{token!r} at ids {first[token]} and {index}",
                    )
        if "" in self.tokens:
            found = f"id {self.tokens.index('')}"
            raise InputError("a token is empty", path=self.path, found=found, expected="text")


def added_type(token: AddedToken) -> TokenType:
    """Control tokens are those marked special, and those that only look so (llama.cpp's does_token_look_special)."""
    text = token.content
    looks = text in _LOOKS_SPECIAL or any(
        text.startswith(first) and text.endswith(last)
        for first, last in (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    )
    return TokenType.CONTROL if token.special or looks else TokenType.USER_DEFINED


def special_ids(tokenizer: TokenizerJson, files: Surroundings, size: int) -> dict[str, int]:
    """Ids of the special tokens: by the configuration files, then by what the post-processor puts around text."""
    ids = files.special_ids(tokenizer.added, size)
    for name, piece in _around(tokenizer.post_processor).items():
        if piece in tokenizer.added:
            ids.setdefault(name, tokenizer.added[piece])
    return ids


def additions(tokenizer: TokenizerJson, files: Surroundings, ids: Mapping[str, int]) -> dict[str, bool]:
    """Whether plain text gets a bos in front and an eos behind, where the post-processor or the config says."""
    around = _around(tokenizer.post_processor)
    add: dict[str, bool] = {}
    for name in ("bos", "eos"):
        if name in around:
            add[name] = tokenizer.added.get(around[name], -1) == ids.get(name)
        elif isinstance(value := files.tokenizer_config.get(f"add_{name}_token"), bool):
            add[name] = value
    add.setdefault("bos", False)  # else llama.cpp decides by the pre-tokenizer's name
    return add


def _around(processor: Mapping[str, Any] | None) -> dict[str, str]:
    """The special tokens that the post-processor puts in front of (bos) and behind (eos) a text."""
    single = _template(processor)
    pieces = {
        name: single[at].get("SpecialToken", {}).get("id") for name, at in (("bos", 0), ("eos", -1)) if single
    }
    return {name: piece for name, piece in pieces.items() if piece is not None}


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


PHI_3 = frozenset({"</s>", "<unk>", "<s>", "<|endoftext|>"})
"""Tokens that a model whose name holds phi-3 must have: llama.cpp strips after all special tokens but the last three."""


def strips_as_phi_3(added: Sequence[AddedToken]) -> bool:
    """Whether llama.cpp strips what this tokenizer strips, if only the model is called so."""
    plain = PHI_3 - {"</s>"}
    stripping = {token.content for token in added if token.rstrip}
    return PHI_3 <= {t.content for t in added} and stripping == {t.content for t in added} - plain


def strip_limits(added: Sequence[AddedToken], template: str | None, path: Path) -> tuple[Limit, ...]:
    """The limit that tokens which swallow neighbouring spaces bring; refused where the chat template has such spaces."""
    right = [re.escape(token.content) for token in added if token.rstrip]
    left = [re.escape(token.content) for token in added if token.lstrip]
    parts = [rf"(?:{'|'.join(right)})(?:\s|\\n)"] if right else []
    parts += [rf"(?:\s|\\n)(?:{'|'.join(left)})"] if left else []
    if not parts:
        return ()
    pattern = re.compile("|".join(parts))
    if template and (found := pattern.search(template)):
        raise InputError(
            "the chat template has spaces beside a token that swallows them, which llama.cpp keeps",
            path=path,
            found=repr(found[0]),
            expected="a template without those spaces",
            next_step="put a chat_template.jinja without them beside the model: the tokens are the same then",
        )
    names = ", ".join(sorted(token.content for token in added if token.lstrip or token.rstrip)[:4])
    note = f"llama.cpp keeps spaces and line ends beside {names}, which the tokenizer swallows"
    return (Limit(note, lambda text: pattern.search(text) is not None),)
