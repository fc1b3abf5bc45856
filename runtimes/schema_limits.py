"""Bounds on what a schema may ask of the mask engine, which has no clock: measured so that compiling takes well under a second.

llguidance counts most of its work and gives up, but not all: the intersection of 29 patterns, or of two large
``multipleOf``, runs for minutes. These bounds look at the schema alone, before it is handed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Final

from edgekit.errors import InputError

MAX_CHOICES: Final = 4096
"""Values of all enums together, or of a choice list; 0.1 ms each where a pattern stands beside them."""
MAX_PROPERTIES: Final = 1000
"""Of one object: the time grows with the square, 80 ms for a thousand, 2.3 s for five thousand."""
MAX_MEETING: Final = 8
"""Patterns and formats that may meet in one string: 12 take 8 ms, 14 take 23, 29 minutes."""
MAX_MODULUS: Final = 10_000
"""Of ``multipleOf``, as a fraction: the automaton has a state per remainder."""
MAX_MODULI: Final = 50_000
"""All different ones together; about 3 µs each."""
MAX_LEVELS: Final = 64
"""Subschemas within each other, references followed: llguidance recurses, and takes 9 kB of stack for each."""
MAX_ALL_LEVELS: Final = 512
"""The same added up over everything that is referred to, for references that lead back: 4.6 MB of stack at worst."""
MAX_LOOKED_AT: Final = 50_000
"""Subschemas that this check itself goes through, 50 ms, where large parts are referred to many times."""

_MEETS: Final = frozenset({"allOf", "anyOf", "oneOf", "$ref"})
_NOTES: Final = frozenset(
    {"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"}
    | {"readOnly", "writeOnly", "$defs", "definitions"}
)
_MAPS: Final = ("properties", "patternProperties")
_LISTS: Final = ("prefixItems", "anyOf", "oneOf", "allOf")
_ONES: Final = ("items", "additionalProperties")


def check_limits(root: Mapping[str, Any], parts: list[tuple[str, Mapping[str, Any]]]) -> None:
    """Raise ``InputError`` that names place and keyword; ``parts`` are all subschemas with their places."""
    _check_levels(root, parts)
    choices, moduli = 0, set()
    for where, part in parts:
        choices += len(part.get("enum", ()))
        for keyword in _MAPS:
            _bound(len(part.get(keyword, ())), MAX_PROPERTIES, f"{where}/{keyword}", "properties")
        _bound(len(part.get("required", ())), MAX_PROPERTIES, f"{where}/required", "properties")
        if "multipleOf" in part:
            moduli.add(_modulus([part["multipleOf"]], f"{where}/multipleOf"))
    _check_meeting(root, parts)
    _bound(choices, MAX_CHOICES, "#", "enum values")
    _bound(sum(moduli), MAX_MODULI, "#", "remainders of multipleOf")


def _bound(found: int, limit: int, where: str, what: str) -> None:
    if found > limit:
        raise InputError(
            f"the output schema asks for too many {what} at {where}", found=found, expected=f"at most {limit}"
        )


def _intersects(part: Mapping[str, Any]) -> bool:
    """Whether two constraints of this place have to hold at once, beyond what plain keywords say."""
    meeting = [keyword for keyword in part if keyword in _MEETS]
    if len(part.get("allOf", ())) > 1 or len(meeting) > 1:
        return True
    return bool(meeting) and any(keyword not in _NOTES and keyword not in _MEETS for keyword in part)


def _check_meeting(root: Mapping[str, Any], parts: list[tuple[str, Mapping[str, Any]]]) -> None:
    """Bound what could meet at worst: everything below a place where constraints do, references followed."""
    if _few_meet([part for _, part in parts], "#", refuse=False):
        return
    looked_at = 0
    for where, part in parts:
        if _intersects(part):
            below = list(reachable(root, part))
            looked_at += len(below)
            _bound(
                looked_at, MAX_LOOKED_AT, where, "subschemas below allOf, anyOf, oneOf or $ref beside others"
            )
            _few_meet(below, f"{where}, where allOf, anyOf, oneOf or $ref stands beside others", refuse=True)


def _few_meet(parts: list[Mapping[str, Any]], where: str, *, refuse: bool) -> bool:
    """Whether all patterns, formats and multiples of these might meet; raises ``InputError`` if it is to refuse."""
    strings = {(key, part[key]) for part in parts for key in ("pattern", "format") if key in part}
    strings |= {("pattern", name) for part in parts for name in part.get("patternProperties", ())}
    multiples = {part["multipleOf"] for part in parts if "multipleOf" in part}
    try:
        _bound(len(strings), MAX_MEETING, where, "patterns and formats")
        if multiples:
            _modulus(sorted(multiples), f"{where}, as a common multipleOf")
    except InputError:
        if refuse:
            raise
        return False
    return True


def _modulus(multiples: list[float], where: str) -> int:
    """The least common multiple, in units of the finest decimal."""
    if min(multiples) <= 0:
        raise InputError(f"the output schema has a multipleOf that isn't above 0 at {where}", found=multiples)
    fractions = [Fraction(str(value)) for value in multiples]
    unit = math.lcm(*(value.denominator for value in fractions))
    if unit > 10**9:
        raise InputError(
            f"the output schema has a multipleOf with too many decimals at {where}", expected="up to 9"
        )
    modulus = math.lcm(*(int(value * unit) for value in fractions))
    _bound(modulus, MAX_MODULUS, where, "remainders of multipleOf")
    return modulus


def reachable(root: Mapping[str, Any], part: Any) -> Iterator[Mapping[str, Any]]:
    """``part`` and every subschema below it once, references followed."""
    seen: set[int] = set()
    stack = [part]
    while stack:
        inner = stack.pop()
        if not isinstance(inner, Mapping) or id(inner) in seen:
            continue
        seen.add(id(inner))
        yield inner
        if "$ref" in inner:
            stack.append(resolve(root, inner["$ref"]))
        stack += _below(inner)


def _below(part: Mapping[str, Any]) -> Iterator[Any]:
    """The subschemas that a schema applies, references and definitions aside."""
    for keyword in _MAPS:
        yield from part.get(keyword, {}).values()
    for keyword in _LISTS:
        yield from part.get(keyword, ())
    yield from (part[keyword] for keyword in _ONES if keyword in part)


def _check_levels(root: Mapping[str, Any], parts: list[tuple[str, Mapping[str, Any]]]) -> None:
    targets = {id(root): root}
    for _, part in parts:
        if "$ref" in part and isinstance(target := resolve(root, part["$ref"]), Mapping):
            targets[id(target)] = target
    levels = _Levels(root, follow=False)
    total = sum(levels.of(target) for target in targets.values())
    if total > MAX_ALL_LEVELS:
        raise _too_deep(total, MAX_ALL_LEVELS)
    _Levels(root, follow=True).of(root)


class _Levels:
    """How many subschemas stand within each other; what leads back to itself counts once."""

    def __init__(self, root: Mapping[str, Any], *, follow: bool) -> None:
        self._root, self._follow = root, follow
        self._known: dict[int, int] = {}

    def of(self, part: Any, depth: int = 1) -> int:
        """Raises ``InputError`` beyond ``MAX_LEVELS``, so it recurses no deeper either."""
        if not isinstance(part, Mapping):
            return 0
        if id(part) not in self._known:
            if depth > MAX_LEVELS:
                raise _too_deep(depth, MAX_LEVELS)
            self._known[id(part)] = 0
            inner = list(_below(part))
            if self._follow and "$ref" in part:
                inner.append(resolve(self._root, part["$ref"]))
            self._known[id(part)] = 1 + max((self.of(one, depth + 1) for one in inner), default=0)
        found = self._known[id(part)]
        if depth - 1 + found > MAX_LEVELS:
            raise _too_deep(depth - 1 + found, MAX_LEVELS)
        return found


def _too_deep(found: int, limit: int) -> InputError:
    return InputError(
        "the output schema is nested too deep, references followed",
        found=found,
        expected=f"at most {limit} levels",
    )


def resolve(root: Mapping[str, Any], reference: str) -> Any:
    """What ``#`` or ``#/a/b`` points to; raises ``InputError`` where that is nothing."""
    from urllib.parse import unquote

    # The same text leads to the same object: callers compare by identity.
    value: Any = root
    pointer = unquote(reference.removeprefix("#"))
    for step in pointer.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isascii() and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise InputError("the output schema's '$ref' leads nowhere", found=reference)
    if pointer and not pointer.startswith("/"):
        raise InputError("the output schema's '$ref' is no pointer", found=reference, expected="#/…")
    if not isinstance(value, Mapping | bool):
        raise InputError("the output schema's '$ref' leads to something else than a schema", found=reference)
    return value
