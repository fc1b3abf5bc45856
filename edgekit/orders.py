"""The bundles that a build makes: one per named quantization, and one per device in what a plan finds for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import InputError
from edgekit.intended import Intended
from edgekit.progress import Progress
from edgekit.project import BuildSpec


@dataclass(frozen=True)
class Order:
    """A bundle to be made."""

    quantization: str
    folder: Path
    target: Intended | None = None


def orders(spec: BuildSpec, progress: Progress) -> list[Order]:
    """All that a build is asked for; ``HardwareError`` where a device would get nothing, with what would do."""
    found = [*_named(spec), *_planned(spec, progress)]
    folders = [order.folder for order in found]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise InputError(
            "two bundles would have one name", path=twice[0], expected="a target that isn't called as a type"
        )
    return found


def _named(spec: BuildSpec) -> list[Order]:
    from edgekit.converters.gguf import presets

    names = [presets.preset(name).name for name in spec.quantizations]
    if len(set(names)) != len(names):
        raise InputError("a quantization is named twice", found=", ".join(spec.quantizations))
    return [Order(name, spec.out / f"{spec.name}-{name.lower()}") for name in names]


def _planned(spec: BuildSpec, progress: Progress) -> Iterator[Order]:
    if not spec.devices:
        return
    from edgekit.plan import joined, plan
    from edgekit.profiles.planning import choose
    from edgekit.profiles.suited import intended

    planned = plan(spec, spec.devices)[1]
    if problems := [one.problem for one in planned if one.problem]:
        raise joined(problems)
    for one in planned:
        row = choose(one.rows)
        assert row is not None  # or there would be a problem
        for note in [*one.notes, f"{row.quantization} {row.reasons[0]}"]:
            progress.note(f"{one.device.name}: {note}")
        yield Order(row.quantization, spec.out / f"{spec.name}-{one.device.name}", intended(one.device, row))
