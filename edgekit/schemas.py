"""What may stand for an output schema: a JSON Schema, a pydantic model, a dataclass or a TypedDict.

Of classes every field is a required key, whatever its default: an extraction says of each field what it found, and
``X | None`` is how a field says that it found nothing. Objects made of classes have no further keys.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from edgekit.errors import InputError

_SCALARS: Final[Mapping[Any, str]] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    None: "null",
}
_LISTS: Final = (list, set, frozenset)


def as_json_schema(schema: Any) -> dict[str, Any]:
    """The JSON Schema that ``schema`` stands for.

    Takes a mapping that is one, a pydantic model class (its ``model_json_schema()``), a dataclass or a TypedDict. Their
    fields may be ``str``, ``int``, ``float``, ``bool``, ``None``, ``Literal``, ``Enum``, unions, ``list``, ``set``,
    ``tuple``, ``dict[str, X]`` and such classes again; ``Annotated`` adds a description (a text) or keywords (a
    mapping). Raises ``InputError`` that names the class and the field for what JSON Schema can't say.
    """
    if isinstance(schema, Mapping):
        return dict(schema)
    if isinstance(schema, str | bytes):
        raise InputError(
            "a text is no output schema",
            found=repr(schema)[:100],
            next_step="pass what json.loads makes of it",
        )
    if is_pydantic(schema):
        closed: dict[str, Any] = _closed(_asked(schema))
        return closed
    if _is_record(schema):
        return _Made().root(schema)
    raise InputError(
        "this can't stand for an output schema",
        found=_name(schema),
        expected="a JSON Schema as a dict, or the class of a pydantic model, a dataclass or a TypedDict",
        next_step=f"pass the class {type(schema).__name__}" if _is_record(type(schema)) else None,
    )


def is_pydantic(schema: Any) -> bool:
    """Whether it is a pydantic (v2) model class; pydantic itself is not imported."""
    return isinstance(schema, type) and all(
        callable(getattr(schema, name, None)) for name in ("model_json_schema", "model_validate")
    )


def _is_record(schema: Any) -> bool:
    return isinstance(schema, type) and (dataclasses.is_dataclass(schema) or typing.is_typeddict(schema))


def _asked(model: Any) -> dict[str, Any]:
    """What pydantic says; its errors are of many classes."""
    try:
        schema = model.model_json_schema()
    except Exception as error:
        raise InputError(
            "the pydantic model has no JSON Schema", found=f"{_name(model)}: {error}"[:300]
        ) from error
    if not isinstance(schema, dict):
        raise InputError("the model's JSON Schema is no dict", found=_name(model))
    return schema


def _closed(schema: Any) -> Any:
    """Every key required and no others, in each object that lists its keys and doesn't say about others."""
    if isinstance(schema, list):
        return [_closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    named = ("properties", "$defs", "patternProperties")
    data = ("const", "enum", "default", "examples")
    closed = {
        keyword: {name: _closed(inner) for name, inner in value.items()}
        if keyword in named and isinstance(value, dict)
        else value
        if keyword in data
        else _closed(value)
        for keyword, value in schema.items()
    }
    if isinstance(closed.get("properties"), dict):
        closed["required"] = list(closed["properties"])
        closed.setdefault("additionalProperties", False)
    return closed


def fields(record: Any) -> dict[str, Any]:
    """Name and type of every field of a dataclass or TypedDict, in order; raises ``InputError`` for unknown names."""
    try:
        hints = typing.get_type_hints(record, include_extras=True)
    except (NameError, TypeError, SyntaxError, AttributeError) as error:
        raise InputError(
            "a field's type can't be found",
            found=f"{_name(record)}: {error}",
            next_step="define the classes at the top of a module, as every annotation there can be looked up",
        ) from error
    if dataclasses.is_dataclass(record):
        return {field.name: hints[field.name] for field in dataclasses.fields(record) if field.init}
    return hints


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union; nothing for another type."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else ()


def bare(kind: Any) -> Any:
    """A type without ``Annotated``, ``Required``, ``NotRequired``, ``ReadOnly`` and ``NewType`` around it."""
    while True:
        origin = get_origin(kind)
        if origin is Annotated or getattr(origin, "_name", None) in ("Required", "NotRequired", "ReadOnly"):
            kind = get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        else:
            return kind


class _Made:
    """Makes one schema; classes that stand within it go into ``$defs``, so they may hold themselves."""

    def __init__(self) -> None:
        self._defs: dict[str, Any] = {}
        self._places: dict[Any, str] = {}

    def root(self, record: Any) -> dict[str, Any]:
        """The whole schema of a class."""
        self._places[record] = "#"
        schema = self._record(record)
        return {**schema, "$defs": self._defs} if self._defs else schema

    def _record(self, record: Any) -> dict[str, Any]:
        properties = {
            name: self._of(kind, f"{_name(record)}.{name}") for name, kind in fields(record).items()
        }
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def _reference(self, record: Any) -> dict[str, Any]:
        if record not in self._places:
            name, count = record.__name__, 1
            while name in self._defs:
                count += 1
                name = f"{record.__name__}{count}"
            self._places[record] = f"#/$defs/{name}"
            self._defs[name] = {}
            self._defs[name] = self._record(record)
        return {"$ref": self._places[record]}

    def _of(self, kind: Any, where: str) -> dict[str, Any]:
        if get_origin(kind) is Annotated:
            return self._annotated(kind, where)
        kind = bare(kind)
        origin = get_origin(kind)
        if (kind is None or isinstance(kind, type)) and kind in _SCALARS:
            return {"type": _SCALARS[kind]}
        if origin is Literal:
            return _values(get_args(kind), where)
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return _values([member.value for member in kind], where)
        if members := alternatives(kind):
            return self._union(members, where)
        if is_pydantic(kind):
            raise _refused(kind, where, "a pydantic model as the whole schema, or dataclasses all the way")
        if _is_record(kind):
            return self._reference(kind)
        return self._container(kind, origin, where)

    def _annotated(self, kind: Any, where: str) -> dict[str, Any]:
        inner, *notes = get_args(kind)
        schema = self._of(inner, where)
        for note in notes:
            if isinstance(note, str):
                schema = {**schema, "description": note}
            elif isinstance(note, Mapping):
                schema = {**schema, **note}
            else:
                raise _refused(
                    note, where, "in Annotated a description (a text) or JSON Schema keywords (a dict)"
                )
        return schema

    def _union(self, members: tuple[Any, ...], where: str) -> dict[str, Any]:
        parts = [self._of(member, where) for member in members]
        if all(part.keys() == {"type"} for part in parts):
            return {"type": [part["type"] for part in parts]}
        return {"anyOf": parts}

    def _container(self, kind: Any, origin: Any, where: str) -> dict[str, Any]:
        arguments = get_args(kind)
        if origin in _LISTS and len(arguments) == 1:
            return {"type": "array", "items": self._of(arguments[0], where)}
        if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
            return {"type": "array", "items": self._of(arguments[0], where)}
        if origin is tuple and arguments:
            first = [self._of(one, where) for one in arguments]
            size = len(first)
            return {"type": "array", "prefixItems": first, "items": False, "minItems": size, "maxItems": size}
        if origin is dict and arguments[0] is str:
            return {"type": "object", "additionalProperties": self._of(arguments[1], where)}
        expected = (
            "str, int, float, bool, None, Literal, Enum, unions, list[X], set[X], tuple[X, …], dict[str, X]"
        )
        raise _refused(kind, where, f"{expected}, dataclasses, TypedDicts")


def _values(values: Any, where: str) -> dict[str, Any]:
    for value in values:
        if type(value) not in (str, int, float, bool, type(None)):
            raise _refused(value, where, "values that JSON has: text, numbers, True, False, None")
    return {"enum": list(values)}


def _refused(found: Any, where: str, expected: str) -> InputError:
    return InputError(
        f"the type of {where} can't stand in an output schema", found=_name(found), expected=expected
    )


def _name(value: Any) -> str:
    return value.__qualname__ if isinstance(value, type) and get_origin(value) is None else repr(value)[:200]


def restore(schema: Any, data: Any) -> Any:
    """What ``schema`` stands for, built of the data of an answer: a pydantic model, a dataclass, or the data itself.

    Raises ``InputError`` where the data doesn't fit, which a validated answer's does, save for a class's own checks.
    """
    if isinstance(schema, Mapping):
        return data
    if is_pydantic(schema):
        try:
            return schema.model_validate(data)
        except ValueError as error:
            raise InputError("the answer doesn't fit the model", found=str(error)[:500]) from error
    from edgekit.restoring import built

    if _is_record(schema):
        return built(schema, data, "$")
    raise InputError("this can't stand for an output schema", found=_name(schema))
