"""From an answer's data to instances of the dataclasses that its schema was made of."""

from __future__ import annotations

import dataclasses
import enum
import typing
from typing import Any, Literal, get_args, get_origin

from edgekit.errors import InputError
from edgekit.schemas import alternatives, bare, fields


def built(kind: Any, data: Any, at: str) -> Any:
    """``data`` as a value of the type ``kind``; raises ``InputError`` with the place where it doesn't fit."""
    kind = bare(kind)
    if members := alternatives(kind):
        return _one_of(members, data, at)
    origin = get_origin(kind)
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        return _value(kind, data, at)
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        return _record(kind, data, at)
    if origin is dict and type(data) is dict:
        return {name: built(get_args(kind)[1], inner, f"{at}.{name}") for name, inner in data.items()}
    if origin in (list, set, frozenset, tuple) and type(data) is list:
        return _sequence(origin, get_args(kind), data, at)
    if kind is float and type(data) is int:
        return float(data)
    if kind is int and type(data) is float and data.is_integer():
        return int(data)
    if type(data) is (type(None) if kind is None else kind):
        return data
    raise _unfit(data, at)


def _one_of(members: tuple[Any, ...], data: Any, at: str) -> Any:
    """The first that fits, one of the data's very own type before others: 1 is an int before it is a float."""
    for member in sorted(members, key=lambda member: bare(member) is not type(data)):
        try:
            return built(member, data, at)
        except InputError:
            continue
    raise _unfit(data, at)


def _value(kind: Any, data: Any, at: str) -> Any:
    members: tuple[Any, ...] = tuple(kind) if isinstance(kind, type) else get_args(kind)  # type: ignore[arg-type]
    for member in members:
        value = member.value if isinstance(member, enum.Enum) else member
        numbers = {type(value), type(data)} <= {int, float}
        if value == data and (type(value) is type(data) or numbers):
            return member
    raise _unfit(data, at)


def _record(kind: Any, data: Any, at: str) -> Any:
    known = fields(kind)
    if type(data) is not dict or data.keys() != known.keys():
        raise _unfit(data, at)
    values = {name: built(inner, data[name], f"{at}.{name}") for name, inner in known.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        # A dataclass may check itself in __post_init__.
        raise InputError(
            f"{kind.__name__} doesn't take the answer's values", found=f"{at}: {error}"
        ) from error


def _sequence(origin: Any, arguments: tuple[Any, ...], data: list[Any], at: str) -> Any:
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(arguments) != len(data):
            raise _unfit(data, at)
        kinds: tuple[Any, ...] = arguments
    else:
        kinds = (arguments[0],) * len(data)
    values = (
        built(kind, inner, f"{at}[{index}]")
        for index, (kind, inner) in enumerate(zip(kinds, data, strict=True))
    )
    try:
        return origin(values)
    except TypeError as error:
        raise InputError("the answer's values can't stand in a set", found=f"{at}: {error}") from error


def _unfit(data: Any, at: str) -> InputError:
    return InputError("the answer doesn't fit the class", found=f"{at}: {data!r:.100}")
