"""A vocabulary outside GGUF: tokenizer.json through `tokenizers`, and what the model's config says of control tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from edgekit.errors import BundleError, InputError, UnsupportedModelError
from edgekit.files import parse_json, read_bounded, read_text

TOKENIZER: Final = "tokenizer.json"
TOKENIZER_LIMIT: Final = 256 << 20
_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_T = TypeVar("_T")


class Words:
    """Texts to ids and ids to bytes, as transformers would; safe to use from several threads."""

    def __init__(self, folder: Path, eos_ids: Sequence[int], bos_id: int | None) -> None:
        import tokenizers

        self._path = folder / TOKENIZER
        data = read_bounded(self._path, limit=TOKENIZER_LIMIT)
        definition = parse_json(data, self._path)

        def made() -> Any:
            made = tokenizers.Tokenizer.from_str(data.decode())
            made.no_padding()
            made.no_truncation()
            return made

        # Two of them: which control tokens are recognised is a setting, and threads may ask for both at once.
        self._special: Any = self._shielded(made)
        self._plain: Any = self._shielded(made)
        self._plain.encode_special_tokens = True
        added = [one for one in definition.get("added_tokens") or [] if isinstance(one, dict)]
        self.specials: Mapping[str, int] = {
            one["content"]: one["id"] for one in added if one.get("special") and one.get("content")
        }
        self._added = {one["id"]: one["content"] for one in added}
        self._control = frozenset(self.specials.values())
        self._spell = _spelling(definition, self._path)
        about = _about(folder)
        self.eos_ids = frozenset(eos_ids)
        self.bos_token = _text(about.get("bos_token")) or self._token(bos_id)
        self.eos_token = _text(about.get("eos_token")) or self._token(next(iter(eos_ids), None))
        self.add_bos = self._adds(self.specials.get(self.bos_token))
        self.chat_template = _template(folder, about)

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Ids without bos; control tokens are recognised in ``text`` only if ``special``."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError("the text holds half of a surrogate pair, which is not Unicode") from None
        tokenizer = self._special if special else self._plain
        ids: list[int] = self._shielded(lambda: tokenizer.encode(text, add_special_tokens=False).ids)
        return ids

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; empty for control tokens and ids beyond the vocabulary."""
        if token in self._control:
            return b""
        if token in self._added:
            return str(self._added[token]).encode()
        word = self._special.id_to_token(token)
        return b"" if word is None else self._spell(word)

    def _token(self, token: int | None) -> str:
        return "" if token is None else self._special.id_to_token(token) or ""

    def _adds(self, bos: int | None) -> bool:
        """Whether the tokenizer itself puts bos before a text."""
        return bos is not None and self._shielded(lambda: self._special.encode("a").ids)[:1] == [bos]

    def _shielded(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except BaseException as error:  # noqa: B036 - tokenizers raises bare Exception, or a panic that isn't even one
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise BundleError("the tokenizer doesn't work", path=self._path, found=str(error)) from error


def _spelling(definition: Mapping[str, Any], path: Path) -> Callable[[str], bytes]:
    """How the vocabulary spells bytes: GPT-2's letters for them, or SentencePiece's ▁ and <0x0A>."""
    kinds = set(_kinds(definition.get("decoder"))) | set(_kinds(definition.get("pre_tokenizer")))
    if "ByteLevel" in kinds:
        table = _letters()
        return lambda word: b"".join(table[c] if c in table else c.encode() for c in word)
    if kinds & {"Metaspace", "ByteFallback", "Replace"}:
        return _pieces
    raise UnsupportedModelError(
        "a tokenizer whose words can't be told byte by byte", path=path,
        found=", ".join(sorted(kinds)) or "no decoder", expected="ByteLevel, or Metaspace as SentencePiece has it",
    )  # fmt: skip


def _kinds(part: Any) -> list[str]:
    if not isinstance(part, dict):
        return []
    inner = [*(part.get("decoders") or []), *(part.get("pretokenizers") or [])]
    return [str(part.get("type")), *(kind for one in inner for kind in _kinds(one))]


def _pieces(word: str) -> bytes:
    if found := _BYTE.fullmatch(word):
        return bytes([int(found[1], 16)])
    return word.replace("▁", " ").encode()


def _letters() -> dict[str, bytes]:
    """GPT-2's letter for each byte: printable ones stand for themselves, the others follow from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in plain]
    found = {chr(byte): bytes([byte]) for byte in plain}
    return found | {chr(256 + at): bytes([byte]) for at, byte in enumerate(other)}


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return parse_json(read_bounded(path), path) if path.is_file() else {}


def _text(value: Any) -> str:
    """A token's text, which may come with how it is to be matched."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _template(folder: Path, about: Mapping[str, Any]) -> str | None:
    if (path := folder / "chat_template.jinja").is_file():
        return read_text(path)
    found = about.get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise BundleError("no chat template that can be read", path=folder, found=json.dumps(found)[:100])
    return found
