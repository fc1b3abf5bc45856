"""What the template sandbox puts in the place of Python's and jinja's own: filters and names that can't grow."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from jinja2.exceptions import SecurityError, TemplateError
from jinja2.utils import Namespace

MAX_TEXT: Final = 1 << 20
"""Characters of one text."""


def bounded(length: int) -> int:
    """``length``, unless it is more than a text may have."""
    if length > MAX_TEXT:
        raise SecurityError(f"a text of {length} characters is too long, at most {MAX_TEXT}")
    return length


def check_replace(text: str, old: str, new: str) -> None:
    """Refuse a replacement whose result would be too long."""
    bounded(len(text) + text.count(old) * len(new))


def check_join(
    weigh: Callable[[Any], int], ctx: Any, value: Any, d: Any = "", *args: Any, **kwargs: Any
) -> tuple[Any, ...]:
    """Refuse a ``join`` whose result would be too long; hands on its arguments, a generator as a list."""
    value = list(value)
    bounded(weigh(value) + len(value) * len(str(kwargs.get("d", d))))
    return (ctx, value, *(() if "d" in kwargs else (d,)), *args)


def check_replace_filter(
    weigh: Callable[[Any], int], ctx: Any, s: Any, old: Any, new: Any, *args: Any, **kw: Any
) -> tuple[Any, ...]:
    """The ``replace`` filter's turn, which takes anything that prints."""
    weigh(s)
    check_replace(str(s), str(old), str(new))
    return (ctx, s, old, new, *args)


def check_indent(
    weigh: Callable[[Any], int], s: Any, width: Any = 4, *args: Any, **kwargs: Any
) -> tuple[Any, ...]:
    """Refuse an ``indent`` that would add too much."""
    weigh(s)
    width = kwargs.get("width", width)
    bounded((str(s).count("\n") + 1) * (width if isinstance(width, int) else len(str(width))))
    return (s, *(() if "width" in kwargs else (width,)), *args)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """As transformers': nothing is escaped for HTML."""
    marks = [text for text in (indent, *(separators or ())) if isinstance(text, str)]
    if (isinstance(indent, int) and indent > 16) or any(len(text) > 16 for text in marks):
        raise SecurityError("tojson's indent or separators are too long")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if indent is None:
        return encoder.encode(value)
    parts: list[str] = []
    length = 0
    for part in encoder.iterencode(value):
        length = bounded(length + len(part))
        parts.append(part)
    return "".join(parts)


def plain_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """A function, so that nothing can be reached through the type."""
    return dict(*args, **kwargs)


def raise_exception(message: Any = "") -> None:
    """How a template says that it can't render these messages."""
    raise TemplateError(str(message))


class TemplateNamespace(Namespace):
    """jinja's namespace, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, attributes = args[0], dict(*args[1:], **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __repr__(self) -> str:
        """Nothing of what it holds: namespaces that hold each other would print without end."""
        return "<Namespace>"

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace can't hold {name!r}")
