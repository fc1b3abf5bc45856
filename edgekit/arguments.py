"""Whether an argument is of the kind that it must be, before anything is done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgekit.errors import InputError

_NUMBER: Final = (int, float)
OPTIONS: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "max_tokens": ((int,), "a whole number"),
    "deadline": ((*_NUMBER, type(None)), "seconds"),
    "stop": ((str, list, tuple), "a text, or a list of texts"),
    "temperature": (_NUMBER, "a number"),
    "top_k": ((int,), "a whole number"),
    "top_p": (_NUMBER, "a number"),
    "min_p": (_NUMBER, "a number"),
    "seed": ((int, type(None)), "a whole number"),
    "repetition_penalty": (_NUMBER, "a number"),
    "repetition_window": ((int,), "a whole number"),
    "regex": ((str, type(None)), "a text"),
    "lark": ((str, type(None)), "a text"),
    "choices": ((list, tuple, type(None)), "a list of texts"),
}
"""The kinds of every call's options, and how they are said."""


def check(name: str, value: object, kinds: type | tuple[type, ...], expected: str) -> None:
    """Raise ``InputError`` unless ``value`` is of one of these kinds; a truth value is no number."""
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise InputError(f"{name} is of the wrong kind", found=repr(value)[:100], expected=expected)


def check_text(name: str, value: object) -> None:
    """The same for a text or None."""
    check(name, value, (str, type(None)), "a text")


def check_options(options: Mapping[str, Any]) -> None:
    """The same for a call's options; names that it doesn't know are someone else's."""
    for name, value in options.items():
        if name in OPTIONS:
            check(name, value, *OPTIONS[name])
