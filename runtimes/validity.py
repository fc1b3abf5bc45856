"""Whether a finished answer is what its schema says: a second opinion, written apart from the mask engine.

Plain checks over parsed JSON, so that nothing here can hang: a value is held against a subschema once, whatever leads
there. ``pattern``, ``patternProperties`` and ``format`` are left to the masks: Python's ``re`` has no bound on time.
jsonschema is the tests' oracle, not used here: it goes through an ``anyOf`` of references 2^depth times.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final

from edgekit.errors import InputError
from edgekit.runtimes.schema_limits import resolve

MAX_PROBLEMS: Final = 20

Check = Callable[[Any, str, "_Run"], None]

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Validator:
    """Checks answers against one schema; holds nothing of an answer, so threads may share it."""

    def __init__(self, schema: str) -> None:
        """``schema`` is the text of a JSON schema that ``check_schema`` let through."""
        self._root = json.loads(schema)
        self._checks: dict[int, Check] = {}
        try:
            self._check = self._compiled(self._root)
        except RecursionError as error:
            raise InputError("the output schema is nested too deep to be checked") from error
        self._decoder = json.JSONDecoder(
            object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant
        )

    def read(self, text: str) -> tuple[Any, list[str]]:
        """The value of an answer and what is wrong with it; ``None`` where it can't be read at all.

        Beyond the schema it may hold no key twice, no NaN, no number beyond a double and no half surrogate pair.
        """
        try:
            data = self._decoder.decode(text)
        except (ValueError, RecursionError) as error:
            return None, [f"not JSON: {error}"]
        if _SURROGATE.search(text if "\\u" not in text else json.dumps(data, ensure_ascii=False)):
            return data, ["half of a surrogate pair, which is not Unicode"]
        return data, self.problems(data)

    def problems(self, data: Any) -> list[str]:
        """What in ``data`` the schema doesn't allow, each with its place; at most ``MAX_PROBLEMS``."""
        run = _Run()
        try:
            self._check(data, "$", run)
        except RecursionError:
            return ["nested too deep to be checked"]
        return run.problems

    def _compiled(self, schema: Any) -> Check:
        """A check for one subschema, made once; references may come back to it."""
        if isinstance(schema, bool):
            return _anything if schema else _nothing
        known = self._checks.get(id(schema))
        if known is not None:
            return known
        checks: list[Check] = []

        def check(value: Any, at: str, run: _Run) -> None:
            for one in checks:
                one(value, at, run)

        # A value that comes to the same subschema again, by another reference, has had its answer.
        repeats = "$ref" in schema or any(keyword in schema for keyword in ("anyOf", "oneOf", "allOf"))
        self._checks[id(schema)] = chosen = _once(check, id(schema)) if repeats else check
        checks += self._parts(schema)
        return chosen

    def _parts(self, schema: dict[str, Any]) -> list[Check]:
        checks = [_KEYWORDS[keyword](value) for keyword, value in schema.items() if keyword in _KEYWORDS]
        if "$ref" in schema:
            checks.append(self._compiled(resolve(self._root, schema["$ref"])))
        checks += [self._compiled(inner) for inner in schema.get("allOf", ())]
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                # The masks take oneOf only where no two can hold at once; here patterns, which may tell them apart, are missing.
                checks.append(_any_of([self._compiled(inner) for inner in schema[keyword]]))
        if not schema.keys().isdisjoint({"properties", "additionalProperties"}):
            checks.append(self._object(schema))
        if not schema.keys().isdisjoint({"items", "prefixItems"}):
            checks.append(self._array(schema))
        return checks

    def _object(self, schema: dict[str, Any]) -> Check:
        known = {name: self._compiled(inner) for name, inner in schema.get("properties", {}).items()}
        rest = self._compiled(schema.get("additionalProperties", True))
        if "patternProperties" in schema:
            rest = _anything

        def check(value: Any, at: str, run: _Run) -> None:
            if type(value) is dict:
                for name, inner in value.items():
                    known.get(name, rest)(inner, f"{at}.{name}", run)

        return check

    def _array(self, schema: dict[str, Any]) -> Check:
        first = [self._compiled(inner) for inner in schema.get("prefixItems", ())]
        rest = self._compiled(schema.get("items", True))

        def check(value: Any, at: str, run: _Run) -> None:
            if type(value) is list:
                for index, inner in enumerate(value):
                    (first[index] if index < len(first) else rest)(inner, f"{at}[{index}]", run)

        return check


class _Run:
    """One check's findings, and what was checked already."""

    __slots__ = ("done", "problems")

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.done: dict[tuple[int, int], list[str]] = {}

    def add(self, at: str, what: str) -> None:
        """Note a problem; beyond ``MAX_PROBLEMS`` they are no news."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"{at[:200]}: {what}")


def _anything(value: Any, at: str, run: _Run) -> None:
    pass


def _nothing(value: Any, at: str, run: _Run) -> None:
    run.add(at, "not allowed here")


def _once(check: Check, key: int) -> Check:
    def memorised(value: Any, at: str, run: _Run) -> None:
        # Values live as long as the run, so their ids are theirs alone; a loop of references adds nothing.
        # An interned value stands in many places, but what is wrong with it is the same.
        place = (key, id(value))
        known = run.done.get(place)
        if known is None:
            run.done[place] = []
            inner = _inside(check, value, at, run)
            run.done[place] = known = inner
        room = MAX_PROBLEMS - len(run.problems)
        run.problems += known[:room]

    return memorised


def _inside(check: Check, value: Any, at: str, run: _Run) -> list[str]:
    """The problems of one check alone."""
    outer, run.problems = run.problems, []
    check(value, at, run)
    found, run.problems = run.problems, outer
    return found


def _any_of(checks: list[Check]) -> Check:
    def check(value: Any, at: str, run: _Run) -> None:
        if not any(not _inside(one, value, at, run) for one in checks):
            run.add(at, "none of the alternatives")

    return check


def _type(value: Any) -> Check:
    names = [value] if isinstance(value, str) else value
    kinds = tuple(kind for name in names for kind in _TYPES[name])
    whole = "integer" in names and "number" not in names
    wanted = " or ".join(names)
    allowed = frozenset(kinds)

    def check(value: Any, at: str, run: _Run) -> None:
        if type(value) not in allowed and not (whole and type(value) is float and value.is_integer()):
            run.add(at, f"not {wanted}")

    return check


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "array": (list,),
}


def _enum(values: list[Any]) -> Check:
    allowed = frozenset(map(_key, values))

    def check(value: Any, at: str, run: _Run) -> None:
        if _key(value) not in allowed:
            run.add(at, "not one of the allowed values")

    return check


def _key(value: Any) -> Any:
    """Equal for what JSON calls equal: 1 and 1.0, not 1 and true; objects in any order."""
    if type(value) is dict:
        return (dict, frozenset((name, _key(inner)) for name, inner in value.items()))
    if type(value) is list:
        return (list, tuple(map(_key, value)))
    return (bool, value) if type(value) is bool else value


def _required(names: list[str]) -> Check:
    def check(value: Any, at: str, run: _Run) -> None:
        if type(value) is dict:
            for name in names:
                if name not in value:
                    run.add(at, f"{name!r} is missing")

    return check


def _sized(kind: type[Any], below: bool) -> Callable[[int], Check]:
    def made(limit: int) -> Check:
        def check(value: Any, at: str, run: _Run) -> None:
            if isinstance(value, kind) and (len(value) < limit if below else len(value) > limit):
                run.add(at, f"{len(value)} long, {'at least' if below else 'at most'} {limit} allowed")

        return check

    return made


def _compared(wrong: Callable[[Any, Any], bool], words: str) -> Callable[[float], Check]:
    def made(limit: float) -> Check:
        def check(value: Any, at: str, run: _Run) -> None:
            if type(value) in (int, float) and wrong(value, limit):
                run.add(at, f"{value} is not {words} {limit}")

        return check

    return made


_KEYWORDS: Final[dict[str, Callable[[Any], Check]]] = {
    "type": _type,
    "enum": _enum,
    "const": lambda value: _enum([value]),
    "required": _required,
    "minLength": _sized(str, True),
    "maxLength": _sized(str, False),
    "minItems": _sized(list, True),
    "maxItems": _sized(list, False),
    "minProperties": _sized(dict, True),
    "maxProperties": _sized(dict, False),
    "minimum": _compared(lambda value, limit: value < limit, "at least"),
    "maximum": _compared(lambda value, limit: value > limit, "at most"),
    "exclusiveMinimum": _compared(lambda value, limit: value <= limit, "above"),
    "exclusiveMaximum": _compared(lambda value, limit: value >= limit, "below"),
    "multipleOf": _compared(lambda value, unit: _remainder(value, unit) != 0, "a multiple of"),
}


def _remainder(value: float, unit: float) -> Fraction:
    """Exact, of the decimals as they are written."""
    return Fraction(str(value)) % Fraction(str(unit))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is beyond a double")
    return value


def _int(text: str) -> int:
    if len(text) > 15 and math.isinf(float(text)):
        raise ValueError(f"{text[:40]} is beyond a double")
    return int(text)


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")
