"""A tokenizer as GGUF holds it, whatever kind it was read from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import TokenType

from edgekit.converters.gguf.family import ARRAY, BOOL, STRING, U32, Entry
from edgekit.errors import InputError
from edgekit.files import inside, read_json, read_text

TEMPLATE_LIMIT, TEMPLATES = 256 << 10, 16
SPECIALS = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "mask": "mask",
}
"""tokenizer_config.json's names and GGUF's (which spells separator so)."""


KNOWN_ENDS = {
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
}
"""Tokens that llama.cpp knows by their text to end an answer; a build checks that all ends are recognised."""


@dataclass(frozen=True)
class Limit:
    """Something that the tokenizer does and llama.cpp doesn't: said to the builder, its texts left out of the proof."""

    note: str
    touches: Callable[[str], bool]
    """Whether the difference can show in a text."""


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id with their types, merges by rank, and what surrounds them."""

    model: str
    pre: str
    """llama.cpp's name of the pre-tokenizer; empty where the model implies it."""
    tokens: Sequence[str]
    types: Sequence[TokenType]
    merges: Sequence[str]
    ids: Mapping[str, int]
    """GGUF's key part (bos, eos, eot, …) to token id."""
    add: Mapping[str, bool]
    """Whether bos or eos surround plain text."""
    chat_template: str | None
    file: str
    """The file that it was read from and is proved against."""
    ends: frozenset[int] = field(default_factory=frozenset)
    """Every id that the model's configuration says ends an answer."""
    scores: Sequence[float] = ()
    """SentencePiece's priority of each token; empty for byte-level BPE."""
    flags: Mapping[str, bool] = field(default_factory=dict)
    """Further keys that are true or false, such as ``add_space_prefix``."""
    charsmap: bytes = b""
    """SentencePiece's compiled normalization."""
    reference: Callable[[], str] | None = None
    """Makes the tokenizer.json to prove against, where the checkpoint has none."""
    limits: tuple[Limit, ...] = ()
    opening: str = ""
    """Put in front of every probe, where only texts that begin so are the same in llama.cpp."""
    named_templates: Mapping[str, str] = field(default_factory=dict)
    """Further chat templates, such as ``tool_use``."""
    name_parts: tuple[str, ...] = ()
    """What the model's name must hold, one of them: llama.cpp goes by it for one tokenizer."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What llama.cpp does differently, for the one who builds."""
        return tuple(limit.note for limit in self.limits)

    def entries(self) -> list[Entry]:
        """The tokenizer.* keys, in the order of llama.cpp's converter."""
        entries = [
            Entry("tokenizer.ggml.model", self.model, STRING),
            *([Entry("tokenizer.ggml.pre", self.pre, STRING)] if self.pre else []),
            Entry("tokenizer.ggml.tokens", self.tokens, ARRAY),
        ]
        if self.scores:
            entries.append(Entry("tokenizer.ggml.scores", [float(score) for score in self.scores], ARRAY))
        entries.append(Entry("tokenizer.ggml.token_type", [int(kind) for kind in self.types], ARRAY))
        if self.merges:
            entries.append(Entry("tokenizer.ggml.merges", self.merges, ARRAY))
        entries += [Entry(f"tokenizer.ggml.{key}_token_id", value, U32) for key, value in self.ids.items()]
        entries += [Entry(f"tokenizer.ggml.add_{key}_token", value, BOOL) for key, value in self.add.items()]
        entries += [Entry(f"tokenizer.ggml.{key}", value, BOOL) for key, value in self.flags.items()]
        if self.charsmap:
            entries.append(Entry("tokenizer.ggml.precompiled_charsmap", self.charsmap, ARRAY))
        for name, template in self.named_templates.items():
            entries.append(Entry(f"tokenizer.chat_template.{name}", template, STRING))
        if self.named_templates:
            entries.append(Entry("tokenizer.chat_templates", [*self.named_templates], ARRAY))
        if self.chat_template:
            entries.append(Entry("tokenizer.chat_template", self.chat_template, STRING))
        return entries


@dataclass(frozen=True)
class Surroundings:
    """The files beside tokenizer.json, each empty where it is missing."""

    folder: Path
    tokenizer_config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    config: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any]) -> Surroundings:
        """Read them from a checkpoint's folder."""
        return cls(
            folder,
            _optional(folder, "tokenizer_config.json"),
            _optional(folder, "generation_config.json"),
            config,
        )

    def special_ids(self, added: Mapping[str, int], size: int) -> dict[str, int]:
        """Ids of bos, eos and so on: by the tokenizer's configuration first, then by the model's."""
        ids: dict[str, int] = {}
        for name, key in SPECIALS.items():
            entry = self.tokenizer_config.get(f"{name}_token")
            text = entry.get("content") if isinstance(entry, dict) else entry
            by_config = self.config.get(f"{name}_token_id")
            if isinstance(text, str) and text in added:
                ids[key] = added[text]
            elif type(by_config) is int and 0 <= by_config < size:
                ids[key] = by_config
        texts = {index: text for text, index in added.items()}
        others = [token for token in sorted(self.ends(size)) if token != ids.get("eos")]
        if others and "eos" not in ids:
            ids["eos"] = others.pop(0)
        others = [token for token in others if texts.get(token) not in KNOWN_ENDS]
        return ids | dict(zip(("eot", "eom"), others, strict=False))

    def ends(self, size: int) -> set[int]:
        """Every eos id that the configuration files name, alone or in a list."""
        ends: set[int] = set()
        for source in (self.generation_config, self.config):
            value = source.get("eos_token_id")
            values = value if isinstance(value, list) else [value]
            ends |= {token for token in values if type(token) is int and 0 <= token < size}
        return ends

    def chat_template(self) -> str | None:
        """The template from chat_template.jinja, or from tokenizer_config.json (the one named default, or the first)."""
        if (self.folder / "chat_template.jinja").exists():
            path = inside(self.folder, "chat_template.jinja")
            return _checked(read_text(path), path)
        path, template = self.folder / "tokenizer_config.json", self.tokenizer_config.get("chat_template")
        if isinstance(template, list):
            named = _named(template)
            template = named.get("default") or next(iter(named.values()), None)
        return _checked(template, path)

    def named_templates(self) -> dict[str, str]:
        """Those of tokenizer_config.json that go by another name than default, named as GGUF's keys may be."""
        templates = self.tokenizer_config.get("chat_template")
        if not isinstance(templates, list) or (self.folder / "chat_template.jinja").exists():
            return {}
        found: dict[str, str] = {}
        path = self.folder / "tokenizer_config.json"
        for name, template in sorted(_named(templates).items()):
            key, text = re.sub("[^A-Za-z0-9]", "_", name), _checked(template, path)
            if key in found or len(found) >= TEMPLATES:
                raise InputError(
                    "chat templates can't be told apart by their names, or are too many",
                    path=path,
                    found=name,
                    expected=f"up to {TEMPLATES} names that differ in letters and digits",
                )
            if key and key != "default" and text:
                found[key] = text
        return found


def _named(templates: list[Any]) -> dict[str, Any]:
    return {str(entry.get("name")): entry.get("template") for entry in templates if isinstance(entry, dict)}


def _checked(template: Any, path: Path) -> str | None:
    if template is not None and not isinstance(template, str):
        found = type(template).__name__
        raise InputError("the chat template is not text", path=path, found=found)
    if template and len(template.encode("utf-8", "replace")) > TEMPLATE_LIMIT:
        raise InputError("the chat template is too long", path=path, expected=f"<= {TEMPLATE_LIMIT:,} bytes")
    return template


def _optional(folder: Path, name: str) -> dict[str, Any]:
    return read_json(inside(folder, name), limit=16 << 20) if (folder / name).exists() else {}
