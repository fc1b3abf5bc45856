"""Where each leaf of an answer stands in its compact JSON."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Final, NamedTuple

from edgekit.errors import InputError

ROOT: Final = "$"
"""The path of an answer that is one value, not an object or array with something in it."""

_KEY: Final = re.compile(rb'("(?:[^"\\\x00-\x1f]|\\.)*"):')
_SCALAR: Final = re.compile(
    rb'"(?:[^"\\\x00-\x1f]|\\.)*"|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null|\{\}|\[\]'
)
_PLAIN: Final = re.compile(r'[^.\[\]"$]+')


class Span(NamedTuple):
    """Where a leaf of the answer stands: bytes ``start`` to ``end``, quotes included."""

    path: str
    start: int
    end: int


def spans(answer: bytes) -> list[Span]:
    """Every leaf of a compact JSON value, in the order of its text; an empty object or array is a leaf.

    Paths read ``name``, ``address.city``, ``items[0].price``; a key that isn't plain is quoted: ``["a.b"]``. Of a key
    that an object repeats the last counts, as everywhere in Python. Raises ``InputError`` for anything else.
    """
    scanner = _Scanner(answer)
    try:
        scanner.value("")
    except RecursionError:
        raise scanner.unsound("nesting too deep to follow") from None
    if scanner.at != len(answer):
        raise scanner.unsound("more after the value")
    return [Span(path, *place) for path, place in scanner.leaves.items()]


class _Scanner:
    """Walks one answer; ``at`` is the next byte, ``leaves`` what was found."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.at = answer, 0
        self.leaves: dict[str, tuple[int, int]] = {}

    def value(self, path: str) -> None:
        start = self.at
        if found := _SCALAR.match(self.answer, start):
            self.at = found.end()
            self.leaves[path or ROOT] = (start, self.at)
        elif self._take(b"{"):
            self._object(path)
        elif self._take(b"["):
            self._array(path)
        else:
            raise self.unsound("no value here")

    def _object(self, path: str) -> None:
        seen: set[str] = set()
        while True:
            found = _KEY.match(self.answer, self.at)
            if found is None:
                raise self.unsound("no key here")
            self.at = found.end()
            inner = _join(path, found[1])
            if inner in seen:
                self._forget(inner)
            seen.add(inner)
            self.value(inner)
            if not self._take(b","):
                break
        if not self._take(b"}"):
            raise self.unsound("an object isn't closed here")

    def _array(self, path: str) -> None:
        index = 0
        self.value(f"{path}[0]")
        while self._take(b","):
            index += 1
            self.value(f"{path}[{index}]")
        if not self._take(b"]"):
            raise self.unsound("an array isn't closed here")

    def _take(self, byte: bytes) -> bool:
        if self.answer.startswith(byte, self.at):
            self.at += 1
            return True
        return False

    def _forget(self, path: str) -> None:
        """The key comes again: what it held before is no part of the data."""
        for old in [
            leaf for leaf in self.leaves if leaf == path or leaf.startswith((path + ".", path + "["))
        ]:
            del self.leaves[old]

    def unsound(self, what: str) -> InputError:
        return InputError(
            f"the answer isn't compact JSON: {what}",
            found=f"byte {self.at}: {self.answer[self.at : self.at + 40]!r}",
        )


@lru_cache(4096)
def _join(path: str, quoted: bytes) -> str:
    """The path of a key in the object at ``path`` (empty: the whole answer)."""
    key = quoted[1:-1].decode("utf-8", "replace") if b"\\" not in quoted else str(json.loads(quoted))
    if not _PLAIN.fullmatch(key):
        return f"{path}[{json.dumps(key, ensure_ascii=False)}]"
    return f"{path}.{key}" if path else key
