"""Where in a TOML file a key is, and errors that say so."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from edgekit.errors import InputError

_HEADER: Final = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?$")
_KEY: Final = re.compile(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=")
_PART: Final = re.compile(r"[\w-]+|\"[^\"]*\"|'[^']*'")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*?)`(?: - at `\$\.?(.*)`)?")
_INVALID: Final = re.compile(r"(?:Expected )?(.*?)(?:, got .*)? - at `\$\.?(.*?)`$", re.DOTALL)

_KINDS: Final = {
    "float": "a number", "int": "a whole number", "str": "text", "object": "a table", "array": "a list",
    "Number": "a number that isn't",
}  # fmt: skip
"""msgspec's words for types -> TOML's."""


@dataclass(frozen=True)
class Place:
    """A file, its text, and the table in it that keys are relative to."""

    path: Path
    text: str
    prefix: tuple[str, ...] = ()

    def line(self, key: str) -> int | None:
        """The line of a dotted key, from 1; of the innermost table around it where it is in none of its own."""
        wanted = (*self.prefix, *key.split("."))
        table: tuple[str, ...] = ()
        best, found = 0, None
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := _HEADER.match(line):
                table = at = _parts(header[1])
            elif pair := _KEY.match(line):
                at = (*table, *_parts(pair[1]))
            else:
                continue
            if len(at) > best and wanted[: len(at)] == at:
                best, found = len(at), number
        return found

    def wrong(self, key: str, found: object, expected: str, next_step: str | None = None) -> InputError:
        """The error for a key's value."""
        line, full = self.line(key), ".".join((*self.prefix, key))
        return InputError(
            f"line {line}: {full} can't be used" if line else f"{full} can't be used",
            path=self.path,
            found=_shown(found),
            expected=expected,
            next_step=next_step,
        )

    def invalid(self, message: str, data: Mapping[str, Any], kind: type[msgspec.Struct]) -> InputError:
        """The error for what msgspec says of ``data``, which should have been a ``kind``."""
        if unknown := _UNKNOWN.fullmatch(message):
            return self._unknown(unknown[1], unknown[2] or "", kind)
        if missing := _MISSING.fullmatch(message):
            table = ".".join(filter(None, (*self.prefix, missing[2] or "")))
            where = f"the table {table} has" if table else "there is"
            return InputError(
                f"{where} no {missing[1]}",
                path=self.path,
                expected='it, or extends = "NAME" to take another target\'s',
                next_step="edgekit targets laptop-8gb shows every key",
            )
        invalid = _INVALID.fullmatch(message)
        key, expected = (invalid[2], invalid[1]) if invalid else ("", message)
        key = re.sub(r"\[.*", "", key)
        return self.wrong(key, _at(data, key), _words(expected.replace("`", ""), kind, key))

    def _unknown(self, key: str, table: str, kind: type[msgspec.Struct]) -> InputError:
        full = f"{table}.{key}" if table else key
        fields = [one for one in _fields(kind, table) if one != "name" or table]
        near = difflib.get_close_matches(key, fields, n=1)
        hint = f"did you mean {near[0]}?" if near else None
        line, shown = self.line(full), ".".join((*self.prefix, full))
        return InputError(
            f"line {line}: no key is called {shown}" if line else f"no key is called {shown}",
            path=self.path,
            expected=", ".join(fields),
            next_step=hint,
        )


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, tables key by key."""
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _at(data: Any, dotted: str) -> Any:
    """What lies at msgspec's path, ``gpu.api`` or ``formats[...]``."""
    for part in filter(None, re.sub(r"\[.*", "", dotted).split(".")):
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


def _words(expected: str, kind: type[msgspec.Struct], key: str) -> str:
    """What msgspec expects, in words; a choice with all of its values."""
    if expected.startswith("Invalid enum value"):
        table, _, name = key.rpartition(".")
        field = next(one for one in msgspec.structs.fields(_struct(kind, table)) if one.name == name)
        return "one of " + ", ".join(map(str, _values(field.type)))
    what, _, bound = expected.partition(" ")
    return f"{_KINDS.get(what, what)} {bound.replace('.0', '')}".strip()


def _values(kind: Any) -> list[Any]:
    """The values of a Literal, wherever in a type it is."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [value for part in get_args(kind) for value in _values(part)]


def _fields(kind: type[msgspec.Struct], table: str) -> Sequence[str]:
    return _struct(kind, table).__struct_fields__


def _struct(kind: type[msgspec.Struct], table: str) -> type[msgspec.Struct]:
    """The struct itself, or the one that its field ``table`` holds."""
    for part in filter(None, table.split(".")):
        info = next(field for field in msgspec.structs.fields(kind) if field.name == part)
        options = get_args(info.type) or (info.type,)
        kind = next(one for one in options if isinstance(one, type) and issubclass(one, msgspec.Struct))
    return kind
