"""Settings of a converter, as a user types them: ``KEY=VALUE`` each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from edgekit.errors import InputError

_T = TypeVar("_T", bound=msgspec.Struct)


def parse(pairs: Iterable[str], kind: type[_T], what: str) -> _T:
    """The settings that pairs change from what is usual; ``InputError`` names the one that is wrong."""
    found: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"not a setting of {what}", found=pair, expected="KEY=VALUE")
        number = int(value) if re.fullmatch(r"-?\d{1,9}", value) else value
        found[key] = {"true": True, "false": False}.get(value.lower(), number)
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise InputError(
            f"not a setting of {what}", found=str(error),
            expected=", ".join(f"{name}={getattr(kind(), name)}" for name in kind.__struct_fields__),
        ) from error  # fmt: skip
