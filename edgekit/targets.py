"""The devices that a command or a project file names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.profiles.devices import Device


def resolve(
    names: Sequence[str], overrides: Mapping[str, Mapping[str, Any]], project: Path | None = None
) -> list[Device]:
    """Devices by name or path, as the project's ``[targets.NAME]`` tables change them; all of those where none is named.

    ``InputError`` with the nearest names for an unknown one, with file, line and key for what is wrong in a file.
    """
    from edgekit.profiles import devices

    found = []
    for name in names or overrides:
        if project is not None and name in overrides:
            found.append(devices.adjusted(name, overrides[name], project))
        else:
            found.append(devices.load(name))
    called = [device.name for device in found]
    if twice := sorted({name for name in called if called.count(name) > 1}):
        raise InputError("a target is named twice", found=", ".join(twice), expected="each once")
    return found


def split_gates(
    tables: Mapping[str, Mapping[str, Any]], project: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[str, ...]]]:
    """A project's ``[targets.NAME]`` tables without their ``gates``, which no device has, and these gates by target."""
    plain = {name: {key: one for key, one in its.items() if key != "gates"} for name, its in tables.items()}
    gates = {}
    for name, its in tables.items():
        some = its.get("gates", [])
        if not isinstance(some, list) or not all(isinstance(one, str) for one in some):
            raise InputError(
                f"targets.{name}.gates is no list of gates",
                path=project,
                found=repr(some)[:200],
                expected='such as ["f1 >= 0.85"]',
            )
        if some:
            gates[name] = tuple(some)
    return plain, gates
