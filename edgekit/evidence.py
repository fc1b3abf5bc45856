"""What was measured of an artifact when it was built, as its manifest keeps it."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from edgekit.bundle import Manifest
from edgekit.errors import BundleError
from edgekit.evaluation.figures import TaskFigures
from edgekit.evaluation.running import Speed
from edgekit.evaluation.text import TextFigures
from edgekit.gates import parse, shown


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that was measured on: its name, and the SHA-256 of what was read of it."""

    name: str
    sha256: str


class Judged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A gate as it was written, and what was measured for it."""

    gate: str
    measured: float | None
    passed: bool
    held: float | None = None
    """What was held against the bar where that is not the figure itself: its interval's bad end."""


class Rung(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A quantization that was tried on the way to the smallest that passes: bytes of its files, and what its gates said."""

    quantization: str
    size: int
    passed: bool
    gates: list[Judged]


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest's ``quality``: figures on a text and on labelled records, beside the unquantized merged model.

    Texts and labels of single records stay out of what is published: ``changes`` of the flips is empty.
    """

    reference: str | None
    """The reference's type, such as F16; None where nothing was referred to."""
    text: Input | None = None
    task: Input | None = None
    text_figures: TextFigures | None = None
    task_figures: TaskFigures | None = None
    reference_text: TextFigures | None = None
    reference_task: TaskFigures | None = None
    gates: list[Judged] = []
    ladder: list[Rung] = []
    """Smallest first; only of a bundle that is the smallest that passes."""


def explained(one: Judged) -> str:
    """A gate as it was written, what was measured, and what of it was held against the bar."""
    if one.measured is None:
        return f"{one.gate}, not measured"
    metric = parse(one.gate).metric
    value = f"{one.gate}, measured {shown(metric, one.measured)}"
    return value if one.held is None else f"{value}, at worst {shown(metric, one.held)} (95 %)"


def of(manifest: Manifest) -> Evidence | None:
    """A bundle's evidence; ``BundleError`` for one that isn't sound, None where nothing was measured."""
    return _read(manifest.quality, Evidence, "quality")


def speed_of(manifest: Manifest) -> Speed | None:
    """A bundle's measured speed, if it has one."""
    return _read(manifest.speed, Speed, "speed")


def plain(value: Evidence | Speed) -> dict[str, Any]:
    """As a manifest holds it."""
    found: dict[str, Any] = msgspec.to_builtins(value)
    return found


T = TypeVar("T")


def _read(value: dict[str, Any] | None, kind: type[T], key: str) -> T | None:
    try:
        return None if value is None else msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise BundleError(f"the manifest's {key} is unsound", found=str(error)) from error
