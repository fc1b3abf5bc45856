"""What ``edgekit build`` prints of the bundles that it made, and of those that failed a gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgekit import evidence
from edgekit.cli.output import print_json, printable, table
from edgekit.gates import parse, shown
from edgekit.judging import failed_place
from edgekit.units import size

if TYPE_CHECKING:
    from edgekit.build import Built
    from edgekit.buildcache import Cached
    from edgekit.evidence import Evidence, Judged, Rung


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
    _allocations(built)
    _next(built)


def _allocations(built: Sequence[Built]) -> None:
    """Pictures of the types that were chosen one by one."""
    from edgekit.budget import AUTO
    from edgekit.cli import allocation

    for one in built:
        if (found := one.manifest.allocation) and one.manifest.quantization == AUTO:
            click.echo()
            allocation.show(found.types)


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
    """Every verdict on a line of its own, those that failed in red; and what a search tried, in a table."""
    found = [(one.folder.name, its) for one in built if (its := evidence.of(one.manifest))]
    for name, its in found:
        if its.ladder:
            click.echo()
            _ladder(name, its.ladder)
    if any(its.gates for _, its in found):
        click.echo()
    for name, its in found:
        for one in its.gates:
            words = f"{'passed' if one.passed else 'FAILED'}  {name}: {evidence.explained(one)}"
            click.echo(click.style(printable(words), fg=None if one.passed else "red", bold=not one.passed))


def _ladder(name: str, rungs: Sequence[Rung]) -> None:
    """Smallest first, with what each gate's figure was; those that failed in red."""
    gates = [one.gate for one in rungs[0].gates]
    rows = [
        [rung.quantization, size(rung.size), *map(_held, rung.gates), "passed" if rung.passed else "FAILED"]
        for rung in rungs
    ]
    red = [at for at, rung in enumerate(rungs) if not rung.passed]
    table([f"tried for {name}", "artifact", *gates, ""], rows, red=red)


def _held(one: Judged) -> str:
    metric = parse(one.gate).metric
    measured = shown(metric, one.measured)
    return measured if one.held is None else f"{measured} ({shown(metric, one.held)})"


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
        [{"gate": i.gate, "measured": i.measured, "passed": i.passed, "held": i.held} for i in found.gates]
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
