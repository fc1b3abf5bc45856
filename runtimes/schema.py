"""What a JSON schema may hold to be enforced: limits first, then every keyword known and of the right kind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from edgekit.errors import InputError

MAX_DEPTH: Final = 64
MAX_BYTES: Final = 64 * 1024
MAX_INTEGER: Final = 2**53
MAX_FLOAT: Final = 1e15  # llguidance rounds 8087399990408271.0 to …270
"""llguidance keeps numbers as doubles: a larger constant would come out as its neighbour."""

_NUMBERS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_COUNTS: Final = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
)
_ONE_SCHEMA: Final = frozenset({"items", "additionalProperties"})
_SCHEMA_LISTS: Final = frozenset({"prefixItems", "anyOf", "oneOf", "allOf"})
_SCHEMA_MAPS: Final = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_PLAIN: Final = frozenset({"type", "enum", "const", "required", "pattern", "format", "$ref"})
_NOTES: Final = frozenset(
    {"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"}
    | {"readOnly", "writeOnly"}
)
KEYWORDS: Final = _NUMBERS | _COUNTS | _ONE_SCHEMA | _SCHEMA_LISTS | _SCHEMA_MAPS | _PLAIN | _NOTES
"""Anything else would be ignored without a word by the mask engine, a misspelt keyword too."""


def check_schema(schema: Any) -> str:
    """The schema as compact JSON text, checked; raises ``InputError`` that names the place and the keyword."""
    if not isinstance(schema, Mapping):
        raise InputError("an output schema is a JSON object", found=type(schema).__name__)
    _check_depth(schema)
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError) as error:
        raise InputError("the output schema is not JSON", found=str(error)) from error
    if size > MAX_BYTES:
        raise InputError(
            "the output schema is too long", found=f"{size} bytes", expected=f"at most {MAX_BYTES}"
        )
    for where, part in _parts(schema, "#"):
        for keyword, value in part.items():
            _check_keyword(where, keyword, value)
    return text


def _check_depth(schema: Any) -> None:
    """Walk without recursion, so that no depth can hurt us; this also ends on a schema that holds itself."""
    level = [schema]
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                inner += value.values()
            elif isinstance(value, list | tuple):
                inner += value
            elif isinstance(value, int | float) and abs(value) > (
                MAX_INTEGER if isinstance(value, int) else MAX_FLOAT
            ):
                raise InputError(
                    "the output schema holds a number too big to be exact",
                    found=value,
                    expected="up to 2**53, with a decimal point up to 1e15",
                )
        level = inner
        if len(level) > MAX_BYTES:
            raise InputError("the output schema is too long", expected=f"at most {MAX_BYTES} bytes")
    raise InputError("the output schema is nested too deep", expected=f"at most {MAX_DEPTH} levels")


def _parts(schema: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every subschema with its place, leaving data (enum, const, examples) alone."""
    if not isinstance(schema, Mapping):
        if not isinstance(schema, bool):
            raise InputError(f"the output schema has something else than a schema at {where}", found=schema)
        return
    yield where, schema
    for keyword, value in schema.items():
        place = f"{where}/{keyword}"
        if keyword in _ONE_SCHEMA:
            yield from _parts(value, place)
        elif keyword in _SCHEMA_LISTS and isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                yield from _parts(inner, f"{place}/{index}")
        elif keyword in _SCHEMA_MAPS and isinstance(value, Mapping):
            for name, inner in value.items():
                yield from _parts(inner, f"{place}/{name}")


def _check_keyword(where: str, keyword: Any, value: Any) -> None:
    if keyword not in KEYWORDS:
        raise InputError(
            f"the output schema's keyword {keyword!r} can't be enforced",
            found=f"at {where}",
            expected=f"one of {', '.join(sorted(KEYWORDS - _NOTES))}",
        )
    wrong = (
        (keyword in _NUMBERS and not _is_number(value))
        or (keyword in _COUNTS and not (isinstance(value, int) and _is_number(value) and value >= 0))
        or (keyword in _SCHEMA_LISTS and not isinstance(value, list | tuple))
        or (keyword in _SCHEMA_MAPS and not isinstance(value, Mapping))
        or (keyword == "required" and not isinstance(value, list | tuple))
        or (keyword == "enum" and not isinstance(value, list | tuple))
        or (keyword in {"pattern", "format", "$ref"} and not isinstance(value, str))
    )
    if wrong:
        raise InputError(
            f"the output schema's {keyword!r} has a value of the wrong kind", found=f"at {where}"
        )
    if keyword == "$ref" and not value.startswith("#"):
        raise InputError("the output schema's '$ref' leads outside itself", found=value, expected="#/…")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
