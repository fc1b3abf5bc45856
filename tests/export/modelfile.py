"""Read a Modelfile and its template as Ollama does: a second opinion on what is written, made from its documentation alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_ACTION = re.compile(r'\{\{ ((?:"(?:\\.|[^"\\])*"|[^"])*?) \}\}', re.DOTALL)


def read(text: str) -> list[tuple[str, str]]:
    """Its commands in order; a value in three quotes, or in one, or to the end of its line."""
    found = []
    at = 0
    pattern = re.compile(
        r'\s*(?:#[^\n]*\n|([A-Z]+) ((?:[a-z_]+ )?)(?:"""(.*?)"""|"([^"\n]*)"|([^\n"]*))\n)', re.DOTALL
    )
    while at < len(text):
        match = pattern.match(text, at)
        assert match, f"no command: {text[at : at + 80]!r}"
        at = match.end()
        if match[1]:
            value = next(one for one in match.groups()[2:] if one is not None)
            # What Go doesn't print is dropped where it is read, but for blanks.
            kept = "".join(char for char in value if char in "\n\t" or char.isprintable())
            found.append((f"{match[1]} {match[2]}".strip(), kept))
    return found


def execute(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Go's text/template, as far as range, if, else if, fields and strings go."""
    parts = _ACTION.split(template)
    tokens = [(bool(at % 2), part) for at, part in enumerate(parts) if part]
    tree, rest = _block(tokens)
    assert not rest
    system = "\n\n".join(one["content"] for one in messages if one["role"] == "system")
    return "".join(_run(tree, {"System": system, "Messages": messages}))


def _block(tokens: list[tuple[bool, str]]) -> tuple[list[Any], list[tuple[bool, str]]]:
    tree: list[Any] = []
    while tokens:
        action, text = tokens[0]
        word = text.split()[0] if action else ""
        if word in ("end", "else"):
            return tree, tokens
        tokens = tokens[1:]
        if word not in ("if", "range"):
            tree.append(("value" if action else "text", text))
            continue
        branches = []
        while True:
            inner, tokens = _block(tokens)
            branches.append((text, inner))
            action, text = tokens[0]
            tokens = tokens[1:]
            if text == "end":
                break
            text = text.removeprefix("else ")
        tree.append((word, branches))
    return tree, []


def _run(tree: list[Any], at: Mapping[str, Any]) -> Iterator[str]:
    for kind, what in tree:
        if kind == "text":
            yield what
        elif kind == "value":
            yield _value(what, at)
        elif kind == "range":
            for one in at[what[0][0].removeprefix("range .")]:
                yield from _run(what[0][1], {"Role": one["role"], "Content": one["content"]})
        else:
            taken: list[Any] = next(
                (inner for test, inner in what if _true(test.removeprefix("if "), at)), []
            )
            yield from _run(taken, at)


def _value(text: str, at: Mapping[str, Any]) -> str:
    if text.startswith("."):
        return str(at[text[1:]])
    wide = re.sub(r"\\U([0-9a-f]{8})", lambda m: chr(int(m[1], 16)), text)
    return str(json.loads(wide))


def _true(test: str, at: Mapping[str, Any]) -> bool:
    if test.startswith("not ."):
        return not at[test.removeprefix("not .")]
    field, value = re.fullmatch(r'eq \.(\w+) "(\w+)"', test).groups()  # type: ignore[union-attr]
    return bool(at[field] == value)
