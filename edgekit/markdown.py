"""Markdown that says what it is given: words from elsewhere can't become markup, HTML or front matter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

_MARKUP: Final = re.compile(r"[\\`*\[\]<>|#~&$!]|(?<!\w)_|_(?!\w)")
"""An underscore between letters is one."""
_BEGINS: Final = re.compile(r"^(\d*)([-+=.)])")
_BAR: Final = re.compile(r"(?<!\\)\|")
Plain = str | Sequence[str]


def _printable(text: str, keep: str = "") -> str:
    """Control characters, and those that turn the direction of text, as their escapes."""
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def words(text: str) -> str:
    """Words within a line, every sign of markup escaped."""
    return _MARKUP.sub(r"\\\g<0>", _printable(" ".join(text.split())))


def paragraph(text: str) -> str:
    """Running text in one paragraph, which begins neither a list nor a rule."""
    return _BEGINS.sub(r"\g<1>\\\g<2>", words(text))


def code(text: str) -> str:
    """A name as a code span."""
    shown = _printable(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    gap = " " if shown[:1] in ("`", " ", "") or shown[-1:] in ("`", " ") else ""
    return f"{fence}{gap}{shown}{gap}{fence}"


def block(text: str, kind: str = "") -> str:
    """A fenced block that nothing in it ends."""
    shown = _printable(text.replace("\r\n", "\n"), keep="\n\t")
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", shown)), 3)
    return f"{fence}{kind}\n{shown}\n{fence}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; a bar in a code span ends no cell."""
    lines = [columns, ["---"] * len(columns), *([_BAR.sub(r"\|", cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def front_matter(values: Mapping[str, Plain]) -> str:
    """YAML that any reader takes for the same: plain keys, quoted text, and lists of it."""
    lines = []
    for key, value in values.items():
        if isinstance(value, str):
            lines.append(f"{key}: {_quoted(value)}")
        else:
            lines += [f"{key}:", *(f"- {_quoted(one)}" for one in value)]
    return "\n".join(["---", *lines, "---"])


def _quoted(text: str) -> str:
    if re.fullmatch(r"[a-z][a-z-]*[0-9.-]*[a-z-]*", text) and text not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n"):  # fmt: skip
        return text
    return json.dumps(_printable(text), ensure_ascii=False)
