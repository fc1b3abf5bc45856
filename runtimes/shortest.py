"""How many tokens an answer needs at the least: a schema that can't fit the context is an error before the first token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from edgekit.errors import InputError
from edgekit.runtimes.constraint import Vocabulary
from edgekit.runtimes.grammars import Grammar
from edgekit.runtimes.schema_limits import resolve

_ROUNDS: Final = 64
"""Passes over a recursive schema; stopping earlier only makes the bound lower."""
_KEPT: Final = 64
_CAP: Final = 1 << 30
_MADE_HERE: Final = b'"{}[]:,0123456789-truefalsn'
"""Bytes that JSON itself brings, beside keys and constants."""
_EVERY: Final = frozenset(range(256))


def shortest(grammar: Grammar, vocabulary: Vocabulary) -> int:
    """A lower bound on the tokens of a complete answer, its end not counted.

    The greater of: the tokens forced at the start, and the bytes of the shortest answer by what one token can spell
    of them. It costs milliseconds, so it is kept with the vocabulary.
    """
    known = vocabulary.shortest.get(grammar)
    if known is None:
        matcher = vocabulary.matcher(grammar)
        forced = [token for token in matcher.forced() if token not in vocabulary.eos_ids]
        known = len(forced)
        for texts in (False, True):
            size, alphabet = _bytes(grammar, texts)
            known = max(known, -(-size // vocabulary.longest(alphabet)))
        if len(vocabulary.shortest) >= _KEPT:
            vocabulary.shortest.clear()
        vocabulary.shortest[grammar] = known
    return known


def check_room(grammar: Grammar, vocabulary: Vocabulary, room: int) -> None:
    """Raise ``InputError`` where no complete answer fits ``room`` tokens; that one might fit it doesn't promise."""
    least = shortest(grammar, vocabulary)
    if least > room:
        raise InputError(
            "the output schema needs more tokens than are left for the answer",
            found=f"{room} left",
            expected=f"at least {least}",
            next_step="shorten the prompt or the schema, or allow more: max_tokens, n_ctx",
        )


def _bytes(grammar: Grammar, texts: bool) -> tuple[int, frozenset[int]]:
    """The fewest bytes of an answer, and every byte that may be among them: all, where free ``texts`` count too."""
    if grammar.choices:
        choices = [choice.encode() for choice in grammar.choices]
        return min(map(len, choices)), frozenset(b"".join(choices))
    if grammar.schema is None:
        return 0, frozenset()
    least = _Least(json.loads(grammar.schema), texts)
    try:
        size = least.root()
    except RecursionError:
        return 0, _EVERY
    return size, _EVERY if texts else frozenset(least.alphabet)


class _Least:
    """The fewest bytes that a value of each subschema takes; keywords it doesn't know only make it lower."""

    def __init__(self, root: Any, texts: bool) -> None:
        self._root, self._texts = root, texts
        self._sizes: dict[int, int] = {}
        self.alphabet = set(_MADE_HERE)

    def root(self) -> int:
        """For the whole schema: every pass lets a reference see what the last one found."""
        size = -1
        for _ in range(_ROUNDS):
            self._seen: set[int] = set()
            found = self._of(self._root)
            if found == size:
                break
            size = found
        return max(size, 0)

    def _of(self, schema: Any) -> int:
        if not isinstance(schema, Mapping):
            return 1
        if id(schema) in self._seen:
            return self._sizes.get(id(schema), 0)
        self._seen.add(id(schema))
        self._sizes[id(schema)] = size = min(_CAP, self._size(schema))
        return size

    def _size(self, schema: Mapping[str, Any]) -> int:
        # All of these have to hold, so the largest counts.
        bounds = [1]
        for keyword in ("const", "enum"):
            if keyword in schema:
                bounds.append(self._values([schema["const"]] if keyword == "const" else schema["enum"]))
        for keyword in ("anyOf", "oneOf"):
            if schema.get(keyword):
                bounds.append(min(map(self._of, schema[keyword])))
        bounds += map(self._of, schema.get("allOf", ()))
        if "$ref" in schema:
            bounds.append(self._of(resolve(self._root, schema["$ref"])))
        types = schema.get("type", [])
        types = [types] if isinstance(types, str) else types
        if types:
            bounds.append(min(self._typed(schema, name) for name in types))
        return max(bounds)

    def _typed(self, schema: Mapping[str, Any], name: str) -> int:
        if name == "string":
            return 2 + (int(schema.get("minLength", 0)) if self._texts else 0)
        if name == "array":
            return self._array(schema)
        if name == "object":
            return self._object(schema)
        return 4 if name in ("null", "boolean") else 1

    def _array(self, schema: Mapping[str, Any]) -> int:
        count = int(schema.get("minItems", 0))
        first = schema.get("prefixItems", ())
        sizes = [self._of(inner) for inner in first[:count]]
        rest = count - len(sizes)
        return 2 + sum(sizes) + rest * self._of(schema.get("items", True)) + max(count - 1, 0)

    def _object(self, schema: Mapping[str, Any]) -> int:
        properties = schema.get("properties", {})
        required = dict.fromkeys(schema.get("required", ()))
        self.alphabet.update(*(_spelt(name) for name in required))
        rest = schema.get("additionalProperties", True)
        inner = sum(
            _length(_spelt(name))
            + 1
            + (self._of(properties.get(name, rest)) if "patternProperties" not in schema else 1)
            for name in required
        )
        return 2 + inner + max(len(required) - 1, 0)

    def _values(self, values: Iterable[Any]) -> int:
        texts = [_spelt(value) for value in values]
        self.alphabet.update(*texts)
        # A number has other spellings, and a string escapes: only what has one is counted in full.
        return min(map(_length, texts), default=1)


def _length(text: bytes) -> int:
    return len(text) if text.isascii() and text[:1] == b'"' and b"\\" not in text else 1


def _spelt(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
