"""Why a device gets nothing: by how much the nearest misses, and what would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from edgekit.errors import HardwareError
from edgekit.profiles import devices, planning
from edgekit.profiles.devices import Device
from edgekit.profiles.planning import CONTEXTS, UNNAMED, Candidate, Row

SHOWN: Final = 3
"""Other targets that are named."""
MATRIX: Final = "importance matrix"


def error(device: Device, rows: Sequence[Row], candidates: Sequence[Candidate]) -> HardwareError:
    """The error of a plan in which no row is chosen."""
    buildable = [row for row in rows if row.barred is None]
    fitting = [row for row in buildable if row.fits]
    context = rows[0].context if rows else device.context
    if not buildable:
        found = "; ".join(sorted({row.barred or "" for row in rows})) or "no quantization at all"
    elif not fitting:
        least = min(buildable, key=lambda row: row.over)
        found = (
            f"{least.quantization}, the smallest, takes {least.memory_bytes[least.context] / 1e9:.2f} GB with a context of "
            f"{least.context:,}: {_gb(least.over)} more than the {device.budget_gb:g} GB that a model may take"
        )
    else:
        best = max(fitting, key=lambda row: row.decode_tps)
        found = (
            f"{best.quantization}, the fastest that fits, is predicted at {best.decode_tps:.1f} tok/s: "
            f"{device.min_tps - best.decode_tps:.1f} less than the {device.min_tps:g} that are the least"
        )
    return HardwareError(
        f"nothing of this model is good enough for {device.name}",
        found=found,
        expected=f"{device.budget_gb:g} GB at most with a context of {context:,}, {device.min_tps:g} tok/s at least",
        next_step="what would do: " + "; ".join(_remedies(device, rows, candidates)),
    )


def _remedies(device: Device, rows: Sequence[Row], candidates: Sequence[Candidate]) -> Iterator[str]:
    buildable = [row for row in rows if row.barred is None]
    if row := _shorter(buildable, device):
        length, quantization = row
        yield f"context = {length} ({quantization})"
    unnamed = [row for row in rows if row.fits and row.fast and row.barred == UNNAMED]
    if unnamed:
        yield f"{unnamed[0].quantization} among its quantizations"
    with_matrix = [row for row in rows if row.fits and row.fast and MATRIX in (row.barred or "")]
    if with_matrix:
        yield f"an importance matrix (--imatrix), for {with_matrix[0].quantization}"
    fast = [row for row in buildable if row.fast]
    if fast and not any(row.fits for row in fast):
        least = min(fast, key=lambda row: row.over)
        budget = device.budget_gb + least.over / devices.GB
        yield f"budget_gb = {_up(budget)} ({least.quantization})"
    fitting = [row for row in buildable if row.fits]
    if fitting and not any(row.fast for row in fitting):
        best = max(fitting, key=lambda row: row.decode_tps)
        yield f"min_tps = {int(best.decode_tps * 10) / 10} ({best.quantization})"
    if others := _others(device, candidates):
        yield f"another target, such as {', '.join(others)}"
    yield "a smaller model"


def _shorter(rows: Sequence[Row], device: Device) -> tuple[int, str] | None:
    """The longest context with which a row would do, and the best one that does."""
    for length in sorted(CONTEXTS, reverse=True):
        for row in rows:
            if length < row.context and row.fast and row.memory_bytes.get(length, 1 << 62) <= device.budget:
                return length, row.quantization
    return None


def _others(device: Device, candidates: Sequence[Candidate]) -> list[str]:
    """Targets that come with edgekit and hold the model, the smallest first."""
    known = sorted((devices.load(name) for name in devices.names()), key=lambda one: one.budget_gb)
    found = (
        one.name
        for one in known
        if one.name != device.name
        and "gguf" in one.formats
        and planning.choose(planning.plan(one, candidates))
    )
    return [name for name, _ in zip(found, range(SHOWN), strict=False)]


def _gb(nbytes: float) -> str:
    return f"{nbytes / devices.GB:.2f} GB"


def _up(budget: float) -> float:
    """Rounded up, so that it suffices."""
    return -int(-budget * 100 // 1) / 100
