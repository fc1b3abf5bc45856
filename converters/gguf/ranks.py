"""Tokenizers kept as bytes with ranks and no merges: Mistral's tekken.json and tiktoken's base64 lines."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from gguf import TokenType

from edgekit.converters.gguf import pieces, pretokenizers, tokenizer_json
from edgekit.converters.gguf.tokenizer_json import AddedToken, Slots
from edgekit.converters.gguf.vocabulary import Surroundings, Vocabulary
from edgekit.errors import InputError, UnsupportedModelError
from edgekit.files import MALFORMED, inside, read_bounded

TEKKEN = "tekken.json"

_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")
_TEKKEN_SPECIALS = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
]
"""Special tokens of tekken files from before they named them, by id."""

LLAMA_3_RANKS = 128_000
_LLAMA_3_SPECIALS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
]
"""Meta's tokenizer.model holds ranks only; these follow them, then reserved ones up to 256."""


class _TekkenToken(msgspec.Struct):
    rank: int
    token_bytes: str


class _TekkenSpecial(msgspec.Struct):
    rank: int
    token_str: str
    is_control: bool = True


class _TekkenConfig(msgspec.Struct):
    pattern: str
    default_vocab_size: int
    default_num_special_tokens: int


class _Tekken(msgspec.Struct):
    config: _TekkenConfig
    vocab: list[_TekkenToken]
    special_tokens: list[_TekkenSpecial] | None = None


def byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte (GPT-2's bytes_to_unicode)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def is_tiktoken(path: Path) -> bool:
    """Whether a file holds tiktoken's lines, whatever it is called."""
    with path.open("rb") as file:
        return _LINE.match(file.read(4096)) is not None


def from_tekken(files: Surroundings, size: int) -> Vocabulary:
    """The vocabulary of a tekken.json: special tokens first, then the bytes by rank."""
    path = inside(files.folder, TEKKEN)
    try:
        tekken = msgspec.json.decode(read_bounded(path), type=_Tekken)
        first = tekken.config.default_num_special_tokens
        count = tekken.config.default_vocab_size - first
        tokens = {
            base64.b64decode(t.token_bytes, validate=True): t.rank for t in tekken.vocab if t.rank < count
        }
    except (*MALFORMED, binascii.Error) as error:
        raise InputError("not a readable tekken.json", path=path, found=str(error)) from error
    if not 0 <= first <= size:
        raise InputError(
            "the tokenizer doesn't match the model's vocabulary",
            path=path,
            found=f"{first} special tokens",
            expected=f"at most {size}, the rows of the embedding",
        )
    named = tekken.special_tokens
    if named is None:
        named = [_TekkenSpecial(i, text) for i, text in enumerate(_TEKKEN_SPECIALS)]
    specials = {token.rank: AddedToken(token.rank, token.token_str, token.is_control) for token in named}
    for index in range(first):
        specials.setdefault(index, AddedToken(index, f"<SPECIAL_{index}>", special=True))
    pattern = tekken.config.pattern
    return _vocabulary(files, path, size, tokens, first, list(specials.values()), pattern)


def from_tiktoken(files: Surroundings, name: str, size: int) -> Vocabulary:
    """The vocabulary of tiktoken's lines. They hold no special tokens and no pattern: Llama 3's are known."""
    path = inside(files.folder, name)
    try:
        lines = [line.split() for line in read_bounded(path).splitlines() if line]
        tokens = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except ValueError as error:
        raise InputError("not a readable tiktoken file", path=path, found=str(error)) from error
    added = pieces.added_tokens(files)
    if not added and len(tokens) == LLAMA_3_RANKS:
        reserved = [f"<|reserved_special_token_{i}|>" for i in range(3, 256 - len(_LLAMA_3_SPECIALS) + 3)]
        texts = [*_LLAMA_3_SPECIALS, *reserved]
        added = [AddedToken(LLAMA_3_RANKS + i, text, special=True) for i, text in enumerate(texts)]
    if not added or files.config.get("model_type") not in {"llama", None}:
        raise UnsupportedModelError(
            "a tiktoken file names no special tokens and no pattern",
            path=path,
            found=f"{len(tokens)} ranks of model_type {files.config.get('model_type')}",
            expected=f"Llama 3's {LLAMA_3_RANKS} ranks, or a tokenizer_config.json with added_tokens_decoder",
            next_step="save a tokenizer.json with AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )
    return _vocabulary(files, path, size, tokens, 0, added, pretokenizers.LLAMA_3)


def _vocabulary(
    files: Surroundings,
    path: Path,
    size: int,
    ranks: Mapping[bytes, int],
    first: int,
    added: Sequence[AddedToken],
    pattern: str,
) -> Vocabulary:
    _check_ranks(ranks, path)
    pre = pretokenizers.find(_steps(pattern), True, False, path)
    template = files.chat_template()
    letters = byte_letters()
    vocab = {"".join(letters[b] for b in token): first + rank for token, rank in ranks.items()}
    merges = [tuple("".join(letters[b] for b in part) for part in pair) for pair in pairs(ranks)]
    slots = Slots(size, path)
    for text, index in vocab.items():
        slots.put(text, index, TokenType.NORMAL)
    for token in added:
        slots.put(token.content, token.id, tokenizer_json.added_type(token))
    slots.check()
    known = {token.content: token.id for token in added}
    ids = {key: known[text] for key, text in _defaults(known).items()} | files.special_ids(known, size)
    return Vocabulary(
        model="gpt2",
        pre=pre,
        tokens=slots.tokens,
        types=slots.types,
        merges=[" ".join(pair) for pair in merges],
        ids=ids,
        add={"bos": True},
        chat_template=template,
        file=path.name,
        ends=frozenset(files.ends(size)),
        limits=pretokenizers.limits(pre, False) + tokenizer_json.strip_limits(added, template, path),
        reference=partial(_reference, vocab, merges, added, pattern),
    )


def _steps(pattern: str) -> dict[str, Any]:
    """tiktoken's splitting as a pre-tokenizer."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, level]}


def _defaults(known: Mapping[str, int]) -> dict[str, str]:
    """Special tokens by their text, where no configuration names them."""
    texts = {"bos": ("<s>", "<|begin_of_text|>"), "eos": ("</s>", "<|end_of_text|>"), "unknown": ("<unk>",)}
    return {key: text for key, choices in texts.items() for text in choices if text in known}


def _check_ranks(ranks: Mapping[bytes, int], path: Path) -> None:
    missing = [f"0x{byte:02x}" for byte in range(256) if bytes([byte]) not in ranks]
    if missing or len(set(ranks.values())) != len(ranks):
        raise InputError(
            "the ranks are unsound",
            path=path,
            found=f"no rank for {', '.join(missing[:4])}" if missing else "a rank given twice",
            expected="one rank for each byte and each token",
        )


def pairs(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Merges that do what ranks do: every way to split a token in two others, lowest rank first."""
    found: list[tuple[int, int, int, bytes, bytes]] = []
    for token, rank in ranks.items():
        for at in range(1, len(token)):
            left, right = ranks.get(token[:at]), ranks.get(token[at:])
            if left is not None and right is not None:
                found.append((rank, left, right, token[:at], token[at:]))
    found.sort()
    return [(left, right) for *_, left, right in found]


def _reference(
    vocab: Mapping[str, int], merges: Sequence[Any], added: Sequence[AddedToken], pattern: str
) -> str:
    """The tokenizer.json that these ranks are worth."""
    tokens = [
        {"id": t.id, "content": t.content, "single_word": False, "lstrip": t.lstrip, "rstrip": t.rstrip, "normalized": False,
         "special": t.special}
        for t in sorted(added, key=lambda token: token.id)
    ]  # fmt: skip
    model = {
        "type": "BPE", "vocab": {t.content: t.id for t in added} | dict(vocab), "merges": [list(pair) for pair in merges],
        "ignore_merges": True,
    }  # fmt: skip
    return json.dumps(
        {"version": "1.0", "added_tokens": tokens, "pre_tokenizer": _steps(pattern), "model": model}
    )
