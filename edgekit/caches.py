"""Where edgekit keeps what it found out about this machine: verdicts, measurements, tuned settings."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec


def cache_folder() -> Path:
    """edgekit's folder in the user's cache; it need not exist. ``XDG_CACHE_HOME`` moves it, on any system.

    Raises ``RuntimeError`` for a user without a home, as in a container that runs under a number.
    """
    if home := os.environ.get("XDG_CACHE_HOME"):
        return Path(home) / "edgekit"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "edgekit" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgekit"
    return Path.home() / ".cache" / "edgekit"


def recall(name: str) -> Any:
    """What was kept under ``name``, or None: nothing, or nothing that can be read."""
    try:
        return msgspec.json.decode((cache_folder() / name).read_bytes())
    except (OSError, RuntimeError, msgspec.DecodeError):
        return None


def remember(name: str, value: Any) -> bool:
    """Keep a value of plain types under ``name``, whole or not at all; False where the cache can't be written."""
    try:
        place = cache_folder() / name
    except RuntimeError:
        return False
    part = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(msgspec.json.encode(value))
        part.replace(place)
    except OSError:
        with suppress(OSError):
            part.unlink()
        return False
    return True
