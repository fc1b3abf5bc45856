"""Results that were measured before, by what they depend on: contents, settings, machine, versions."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec

from edgekit import __version__
from edgekit.caches import cache_folder, recall, remember

T = TypeVar("T")
FOLDER: Final = "evaluation"
FORMAT: Final = 1
"""Goes up when what is kept, or how it is computed, changes."""
LIMIT: Final = 1000
"""Results that are kept; the oldest go first."""


def key(kind: str, **depends: Any) -> str:
    """The name of a result that depends on these plain values, and on this version of edgekit."""
    parts = {"kind": kind, "format": FORMAT, "edgekit": __version__, **depends}
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def get(name: str, kind: type[T]) -> T | None:
    """The result of that name; None where there is none, or none of that kind."""
    found = recall(f"{FOLDER}/{name}.json")
    try:
        return None if found is None else msgspec.convert(found, kind)
    except msgspec.ValidationError:
        return None


def put(name: str, value: Any) -> None:
    """Keep a result; where the cache can't be written it is measured again the next time."""
    if not remember(f"{FOLDER}/{name}.json", value):
        return
    with suppress(OSError):
        files = sorted((cache_folder() / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in files[:-LIMIT]:
            path.unlink()
