"""The bundles that a build makes: one per named quantization, and one per device in what a plan finds for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgekit.errors import InputError
from edgekit.intended import Intended
from edgekit.onnx_settings import precision
from edgekit.progress import Progress
from edgekit.project import BuildSpec

SMALLEST: Final = "smallest"
"""Named instead of a quantization: the smallest whose gates pass."""


def is_smallest(name: str) -> bool:
    """Whether a quantization's name asks for a search."""
    return name.lower() == SMALLEST


@dataclass(frozen=True)
class Order:
    """A bundle to be made."""

    quantization: str
    folder: Path
    target: Intended | None = None

    @property
    def label(self) -> str:
        """What it is called while it is made: a rung of a search by its quantization, too."""
        name = self.folder.name
        return f"{name} ({self.quantization})" if name.endswith(f"-{SMALLEST}") else name


def orders(spec: BuildSpec, progress: Progress) -> list[Order]:
    """All that a build is asked for; ``HardwareError`` where a device would get nothing, with what would do."""
    check(spec)
    return [*_named(spec), *_planned(spec, progress)]


def alone(spec: BuildSpec) -> list[BuildSpec]:
    """A spec for each bundle that it makes, in its order."""
    named = [_named_alone(spec, name) for name in spec.quantizations]
    return named + [replace(spec, quantizations=(), devices=(device,)) for device in spec.devices]


def _named_alone(spec: BuildSpec, name: str) -> BuildSpec:
    """Without a budget where it is for others."""
    alone = replace(spec, quantizations=(name,), devices=())
    return alone if alone.has_auto else replace(alone, budget=None, recipe=None)


def check(spec: BuildSpec) -> None:
    """``InputError`` where two bundles would have one name, and for a budget or data that are missing."""
    _check_budget(spec)
    folders = [folder_of(one) for one in alone(spec)]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise InputError(
            "two bundles would have one name",
            path=twice[0],
            expected="each quantization once, and targets that aren't called as one",
        )


def _check_budget(spec: BuildSpec) -> None:
    if spec.refine and any(map(is_smallest, spec.quantizations)):
        raise InputError(
            f"a search for the {SMALLEST} doesn't refine its rungs",
            next_step="build the quantization that it finds with --refine",
        )
    if spec.has_auto and spec.budget is None and spec.recipe is None:
        raise InputError(
            "auto has no budget",
            next_step="pass --bpw 4.5, --max-size 2.1GB, --max-kld 0.02 or --recipe FILE",
        )
    if spec.has_auto and spec.budget and spec.recipe:
        raise InputError("a recipe leaves nothing to choose", found=f"beside it {spec.budget.asked}")
    if (spec.refine or (spec.budget and spec.has_auto)) and spec.calibration is None:
        raise InputError(
            f"{'refining' if spec.refine else 'auto'} needs data to measure on",
            found="an importance matrix, which says too little" if spec.imatrix else None,
            expected="text or records like what the model will see",
            next_step="pass --calibration FILE",
        )


def folder_of(spec: BuildSpec) -> Path:
    """Where a spec's bundle goes that makes only one."""
    from edgekit.converters.gguf import presets

    if spec.devices:
        return spec.out / f"{spec.name}-{spec.devices[0].name}"
    if spec.format != "gguf":
        name = spec.quantizations[0]
        name = precision(name, spec.onnx) if spec.format == "onnx" else name
        return spec.out / f"{spec.name}-{spec.format}-{name.lower()}"
    if is_smallest(spec.quantizations[0]):
        return spec.out / f"{spec.name}-{SMALLEST}"
    return spec.out / f"{spec.name}-{presets.preset(spec.quantizations[0]).name.lower()}"


def _named(spec: BuildSpec) -> list[Order]:
    from edgekit.converters.gguf import presets

    names = [presets.preset(name).name for name in spec.quantizations]
    return [Order(name, folder_of(replace(spec, quantizations=(name,), devices=()))) for name in names]


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
        yield Order(
            row.quantization, folder_of(replace(spec, devices=(one.device,))), intended(one.device, row)
        )
