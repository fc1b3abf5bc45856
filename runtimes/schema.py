"""What a JSON schema may hold to be enforced: limits first, then every keyword known and of the right kind."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from edgekit.errors import InputError
from edgekit.runtimes.schema_limits import check_limits, resolve

MAX_DEPTH: Final = 64
MAX_BYTES: Final = 64 * 1024
MAX_INTEGER: Final = 2**53
MAX_FLOAT: Final = 1e15  # llguidance rounds 8087399990408271.0 to …270
MAX_PLACES: Final = 22  # and 5.305090535613234e-91 to …232e-91
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
_DEFINITIONS: Final = frozenset({"$defs", "definitions"})
_DRAFTS: Final = (
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-04/schema",
)
KEYWORDS: Final = _NUMBERS | _COUNTS | _ONE_SCHEMA | _SCHEMA_LISTS | _SCHEMA_MAPS | _PLAIN | _NOTES
"""Anything else would be ignored without a word by the mask engine, a misspelt keyword too."""


def as_text(schema: Any) -> str:
    """Compact JSON, keys in their order, which is that of the answers'; raises what ``json.dumps`` raises."""
    return json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def check_schema(schema: Any) -> str:
    """The schema as compact JSON text, checked; raises ``InputError`` that names the place and the keyword."""
    if not isinstance(schema, Mapping):
        is_text = isinstance(schema, str | bytes)
        raise InputError(
            "an output schema is a JSON object",
            found=type(schema).__name__,
            next_step="pass what json.loads makes of it" if is_text else None,
        )
    _check_depth(schema)
    try:
        text = as_text(schema)
        size = len(text.encode())
    except (TypeError, ValueError) as error:
        raise InputError("the output schema is not JSON", found=str(error)) from error
    if size > MAX_BYTES:
        raise InputError(
            "the output schema is too long", found=f"{size} bytes", expected=f"at most {MAX_BYTES}"
        )
    # From here on what the text says: keys are strings, lists are lists, nothing shared and nothing of the caller's.
    root = json.loads(text)
    parts = list(_parts(root, "#"))
    for where, part in parts:
        for keyword, value in part.items():
            _check_keyword(where, keyword, value)
    _check_draft(root, parts)
    check_limits(root, parts)
    return text


def _check_draft(root: Mapping[str, Any], parts: list[tuple[str, Mapping[str, Any]]]) -> None:
    """References mean what 2020-12 says, whatever the draft; where an older one says otherwise it is refused."""
    draft = root.get("$schema", _DRAFTS[0])
    if not isinstance(draft, str) or draft.rstrip("#") not in _DRAFTS:
        raise InputError(
            "the output schema's '$schema' is unknown", found=f"{draft!r:.200}", expected=" or ".join(_DRAFTS)
        )
    for where, part in parts:
        if where != "#" and not part.keys().isdisjoint({"$id", "$schema"}):
            raise InputError("the output schema's '$id' and '$schema' belong at its top", found=f"at {where}")
        if "$ref" in part:
            resolve(root, part["$ref"])
            if "draft-0" in draft and part.keys() - _NOTES - _DEFINITIONS != {"$ref"}:
                raise InputError(
                    f"the output schema's '$ref' at {where} stands beside keywords that its draft ignores",
                    found=draft,
                    expected=f"no other keyword there, or {_DRAFTS[0]}",
                )


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
            elif isinstance(value, int | float) and not _is_exact(value):
                raise InputError(
                    "the output schema holds a number too big to be exact, or too fine",
                    found=f"{value!r:.40}",
                    expected="up to 2**53, with a decimal point up to 1e15, 15 digits and 22 places",
                )
        level = inner
        if len(level) > MAX_BYTES:
            raise InputError("the output schema is too long", expected=f"at most {MAX_BYTES} bytes")
    raise InputError("the output schema is nested too deep", expected=f"at most {MAX_DEPTH} levels")


def _is_exact(value: float) -> bool:
    """Whether llguidance keeps the number: a whole one below 2**53 by a power of ten up to 22, nothing else."""
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER
    if not math.isfinite(value):
        return False
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    whole = int("".join(map(str, digits)))
    return abs(value) <= MAX_FLOAT and whole <= MAX_INTEGER and -MAX_PLACES <= int(exponent) <= MAX_PLACES


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
        or (keyword == "required" and not _are_names(value))
        or (keyword == "enum" and not isinstance(value, list | tuple))
        or (keyword in {"pattern", "format", "$ref", "$id", "$schema"} and not isinstance(value, str))
    )
    if wrong:
        raise InputError(
            f"the output schema's {keyword!r} has a value of the wrong kind", found=f"at {where}"
        )
    if keyword == "$ref" and not value.startswith("#"):
        raise InputError("the output schema's '$ref' leads outside itself", found=value, expected="#/…")


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
