"""What ``edgekit build`` prints of the bundles that it made, and of those that failed a gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgekit import evidence
from edgekit.cli.output import print_json, printable, size, table
from edgekit.gates import explained
from edgekit.judging import failed_place, verdicts

if TYPE_CHECKING:
    from edgekit.build import Built
    from edgekit.buildcache import Cached
    from edgekit.evidence import Evidence


def report(built: Sequence[Built], cached: Sequence[Cached] | None, as_json: bool) -> None:
    """One table, or one JSON document; ``cached`` where there is a cache, in the same order."""
    kept = [{"key": one.key, "cache": one.how} for one in cached] if cached else [{} for _ in built]
    if as_json:
        print_json([_as_json(one) | its for one, its in zip(built, kept, strict=True)])
        return
    columns = {"bundle": [str(one.folder) for one in built]}
    columns["quantization"] = [one.manifest.quantization for one in built]
    columns["artifact"] = [size(one.size) for one in built]
    columns["memory"] = [_memory(one) for one in built]
    columns |= _figures(built)
    if cached:
        columns["cache"] = [one.how for one in cached]
        columns["key"] = [one.key[:16] for one in cached]
    rows = list(map(list, zip(*columns.values(), strict=True)))
    table(list(columns), rows, red=[at for at, one in enumerate(built) if not one.published])
    _gates(built)
    _next(built)


def _figures(built: Sequence[Built]) -> dict[str, list[str]]:
    """Columns for what was measured of any bundle."""
    found = [evidence.of(one.manifest) for one in built]
    columns = {
        "KLD": [_kld(one) for one in found],
        "F1": [_f1(one) for one in found],
        "flips": [_flips(one) for one in found],
        "gates": [_said(one, its) for one, its in zip(built, found, strict=True)],
    }
    return {name: cells for name, cells in columns.items() if set(cells) != {"-"}}


def _kld(one: Evidence | None) -> str:
    beside = one.text_figures.reference if one and one.text_figures else None
    return f"{beside.kld.value:.3g}" if beside else "-"


def _f1(one: Evidence | None) -> str:
    if one is None or one.task_figures is None:
        return "-"
    its = one.task_figures.micro
    low, high = its.f1_interval or (its.f1, its.f1)
    return f"{its.f1:.3f} ±{(high - low) / 2:.3f}"


def _flips(one: Evidence | None) -> str:
    flips = one.task_figures.reference if one and one.task_figures else None
    return f"{flips.share.value:.1%}" if flips else "-"


def _said(built: Built, one: Evidence | None) -> str:
    if one is None or not one.gates:
        return "-"
    return "passed" if built.published else "FAILED"


def _gates(built: Sequence[Built]) -> None:
    """Every verdict on a line of its own, those that failed in red."""
    lines = [(one, verdict) for one in built for verdict in verdicts(one.manifest)]
    if lines:
        click.echo()
    for one, verdict in lines:
        words = f"{'passed' if verdict.passed else 'FAILED'}  {one.folder.name}: {explained(verdict)}"
        bad = not verdict.passed
        click.echo(click.style(printable(words), fg="red" if bad else None, bold=bad))


def _next(built: Sequence[Built]) -> None:
    """How long it took, what wasn't published, and what to try."""
    click.echo()
    for one in built:
        if not one.published:
            place = failed_place(one.folder)
            click.echo(printable(f"not published: {one.folder}; its evidence is in {place}"))
    timing = built[0].timing
    took = f"merged and quantized in {timing.wall:.1f} s" if timing else ""
    first = next((one for one in built if one.published), None)
    hint = printable(f"try: edgekit run {first.folder} -p 'Hello'") if first else ""
    if took or hint:
        click.echo("; ".join(part for part in (took, hint) if part))


def _memory(one: Built) -> str:
    if target := one.manifest.target:
        return f"{size(target.memory)} at {target.context:,}"
    return f"{size(min(one.manifest.requirements.memory.values()))} or more"


def _as_json(one: Built) -> dict[str, Any]:
    manifest, found = one.manifest, evidence.of(one.manifest)
    gates: Sequence[Mapping[str, Any]] = (
        [{"gate": its.gate, "measured": its.measured, "passed": its.passed} for its in found.gates]
        if found
        else []
    )
    return {
        "bundle": str(one.folder),
        "name": manifest.name,
        "quantization": manifest.quantization,
        "target": manifest.target.name if manifest.target else None,
        "size": one.size,
        "memory": manifest.requirements.memory,
        "seconds": round(one.timing.wall, 3) if one.timing else 0.0,
        "published": one.published,
        "gates": gates,
        "quality": manifest.quality,
        "speed": manifest.speed,
    }
