"""``edgekit plan``: what would be built for each target, and why, before a weight is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.forms import FORMS

if TYPE_CHECKING:
    from edgekit.forms import Form
    from edgekit.plan import Candidates, Planned
    from edgekit.profiles.devices import Device
    from edgekit.profiles.planning import Row
    from edgekit.project import BuildSpec

PATH = click.Path(path_type=Path)

_SHORT = {
    "importance matrix": "needs --imatrix",
    "target names": "not named",
    "trained with": "for ternary models",
    "no better": "larger, no better",
}
"""Why a row can't be built, or isn't worth it, in words that fit a table."""

EPILOG = """\b
Examples:
  edgekit plan BASE --adapter LORA --target laptop-8gb --target raspberry-pi-5-8gb
  edgekit plan BASE --target my-board.toml
  edgekit plan BASE --target browser-webgpu --format onnx
  edgekit plan                                 what edgekit.toml in this folder says, with its targets
  edgekit plan BASE --target laptop-8gb --json
"""


@click.command("plan", epilog=EPILOG)
@click.argument("model", required=False, type=PATH)
@click.option(
    "--adapter", "adapters", multiple=True, metavar="DIR[:WEIGHT]", help="LoRA adapter; repeatable."
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME|FILE",
    help="A device of `edgekit targets`, or a .toml file; repeatable.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMS),
    help="Of what is planned.  [default: gguf]",
)
@click.option("--imatrix", type=PATH, help="Importance matrix, which types of about two bits need.")
@click.option("--name", help="Name of the build.  [default: the adapter's or base's folder]")
@click.option("--project", type=PATH, help="Project file.  [default: edgekit.toml]")
@click.option("--json", "as_json", is_flag=True, help="Print a list of rows as JSON.")
def command(
    model: Path | None,
    adapters: tuple[str, ...],
    targets: tuple[str, ...],
    form: Form | None,
    imatrix: Path | None,
    name: str | None,
    project: Path | None,
    as_json: bool,
) -> None:
    """Show for each target what every quantization of MODEL takes, how fast it is, whether it fits, and which is best.

    MODEL is the folder of a Hugging Face checkpoint, or a .gguf file. Its weights aren't read, and needn't be there:
    config.json is enough, and the tokenizer makes sizes exact.
    """
    from edgekit.cli.output import print_json
    from edgekit.plan import joined, plan

    if model is not None and project:
        raise click.UsageError("MODEL and --project are two ways to say what to plan")
    if model is None and (adapters or imatrix or name):
        raise click.UsageError("--adapter, --imatrix and --name go with a MODEL; a project file has its own")
    spec, devices = _asked(model, adapters, targets, imatrix, name, project)
    if form:
        spec = replace(spec, format=form)
    found, planned = plan(spec, devices)
    if as_json:
        print_json([document(row, found) for one in planned for row in one.rows])
    else:
        for note in found.notes:
            click.echo(f"note: {note}", err=True)
        for number, one in enumerate(planned):
            if number:
                click.echo()
            _show(one, found)
    if problems := [one.problem for one in planned if one.problem]:
        raise joined(problems)


def _asked(
    model: Path | None,
    adapters: tuple[str, ...],
    targets: tuple[str, ...],
    imatrix: Path | None,
    name: str | None,
    project: Path | None,
) -> tuple[BuildSpec, list[Device]]:
    from edgekit.project import FILE, BuildSpec, name_of, parse_adapter, read_project
    from edgekit.targets import resolve

    if model is None:
        path = project or Path(FILE)
        spec = read_project(path, targets=targets)
        devices = list(spec.devices)
    else:
        pairs = tuple(parse_adapter(text) for text in adapters)
        spec = BuildSpec(base=model, out=Path("dist"), name=name or name_of(model, pairs), adapters=pairs)
        spec = replace(spec, imatrix=imatrix)
        devices = resolve(targets, {})
    if not devices:
        raise click.UsageError("name a device: --target laptop-8gb; edgekit targets lists them")
    return spec, devices


def document(row: Row, found: Candidates) -> dict[str, Any]:
    """A row as plain values."""
    return {
        "target": row.target,
        "format": row.format,
        "quantization": row.quantization,
        "size_bytes": row.size_bytes,
        "exact": found.exact,
        "memory_bytes": {str(context): nbytes for context, nbytes in row.memory_bytes.items()},
        "context": row.context,
        "decode_tps": round(row.decode_tps, 2),
        "fits": row.fits,
        "chosen": row.chosen,
        "reasons": list(row.reasons),
    }


def _show(planned: Planned, found: Candidates) -> None:
    from edgekit.cli.output import printable, table

    device, rows = planned.device, planned.rows
    place = device.gpu.name if device.gpu else device.cpu.name
    bandwidth = (device.gpu and device.gpu.bandwidth_gb_s) or device.bandwidth_gb_s
    click.echo(printable(f"{device.name}: {device.about}"))
    click.echo(printable(f"{device.budget_gb:g} GB for the model on {place} at {bandwidth:,g} GB/s, "
                         f"context {rows[0].context:,}, at least {device.min_tps:g} tok/s"))  # fmt: skip
    for note in planned.notes:
        click.echo(f"note: {note}")
    contexts = _contexts(rows[0])
    columns = [
        "",
        "type",
        "size" if found.exact else "about",
        *(f"at {one:,}" for one in contexts),
        "tok/s",
        "",
    ]
    table(columns, [_cells(row, contexts) for row in rows])
    best = next((row for row in rows if row.chosen), None)
    if best:
        click.echo(f"{best.quantization} {'; '.join(best.reasons)}")


def _contexts(row: Row) -> list[int]:
    """The context that is asked for, a quarter of it, and four times it, or what is nearest."""
    known = sorted(row.memory_bytes)
    below = [one for one in known if one < row.context]
    above = [one for one in known if one > row.context]
    quarter = [max((one for one in below if one <= row.context // 4), default=below[-1])] if below else []
    fourfold = [min((one for one in above if one >= row.context * 4), default=above[-1])] if above else []
    return [*quarter, row.context, *fourfold]


def _cells(row: Row, contexts: list[int]) -> list[str]:
    return [
        "→" if row.chosen else "",
        row.quantization,
        _gb(row.size_bytes),
        *(_gb(row.memory_bytes[one]) for one in contexts),
        f"{row.decode_tps:,.1f}" if row.decode_tps < 1000 else f"{row.decode_tps:,.0f}",
        _verdict(row),
    ]


def _gb(nbytes: float) -> str:
    return f"{nbytes / 1e9:,.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:,.2f} MB"


def _verdict(row: Row) -> str:
    """Whether it fits, in a few words that leave the table its 80 columns; JSON has all reasons."""
    if row.chosen:
        return "best"
    if row.over > 0:
        over = f"{row.over / 1e9:.{1 if row.over >= 1e10 else 2}f} GB over"
        return over if row.fast else f"{over}, slow"
    if row.barred:
        return next((short for part, short in _SHORT.items() if part in row.barred), row.barred)
    return "fits" if row.fast else "slow"
