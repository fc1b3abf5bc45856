"""``edgekit profile``: what this machine is, and what would run on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgekit.profiles.choice import RuntimeChoice
    from edgekit.profiles.structs import Hardware

PATH = click.Path(path_type=Path)

EPILOG = """\b
Examples:
  edgekit profile
  edgekit profile dist/restaurant-q4_k_m --ctx 2048     what would run this bundle, and how
  edgekit profile --record mine.json                    for a bug report: no serial numbers; look at it first
"""


@click.command("profile", epilog=EPILOG)
@click.argument("bundle", required=False, type=PATH)
@click.option("--ctx", "n_ctx", type=click.IntRange(min=1), help="Context in tokens.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Insist on so many; 0 picks.")
@click.option("--gpu-layers", type=click.IntRange(min=0), help="Insist on so many layers on GPUs.")
@click.option(
    "--no-bandwidth", is_flag=True, help="Don't measure how fast memory is read (0.3 s, three times)."
)
@click.option("--record", type=PATH, metavar="FILE", help="Write what this machine answered, to be replayed.")
@click.option("--replay", type=PATH, metavar="FILE", help="Show another machine, from its recording.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    bundle: Path | None,
    n_ctx: int | None,
    threads: int,
    gpu_layers: int | None,
    no_bandwidth: bool,
    record: Path | None,
    replay: Path | None,
    as_json: bool,
) -> None:
    """Show this machine: processor, memory, GPUs, limits, runtimes; and what would be picked to run BUNDLE, and why.

    BUNDLE is a bundle's folder or a .gguf file; without one, a model of 1.2 billion weights in 4 bits stands for it.
    """
    import msgspec

    from edgekit.choosing import choose, choose_among, document
    from edgekit.cli.output import print_json
    from edgekit.profiles.choice import Preferences
    from edgekit.profiles.examples import TYPICAL

    if record and replay:
        raise click.UsageError("--record writes this machine, --replay shows another: choose one")
    hardware = _hardware(replay, record, bandwidth=not no_bandwidth)
    wishes = Preferences(context=n_ctx, threads=threads, n_gpu_layers=gpu_layers)
    choices = choose(bundle, hardware, wishes) if bundle else choose_among([TYPICAL], hardware, wishes)
    if as_json:
        print_json(msgspec.to_builtins(hardware) | {"choices": [document(one) for one in choices]})
        return
    _show(hardware)
    _show_choices(choices, bundle)


def _hardware(replay: Path | None, record: Path | None, *, bandwidth: bool) -> Hardware:
    from edgekit import here
    from edgekit.bundle import write_json
    from edgekit.profiles.hardware import probe
    from edgekit.profiles.machine import Recorder

    if replay is not None:
        return here.recorded(replay)
    if record is None:
        return here.hardware(bandwidth=bandwidth)
    recorder = Recorder(here.machine(), record.stem)
    hardware = probe(recorder, bandwidth=bandwidth)
    write_json(record, recorder.recording())
    click.echo(f"wrote {record}", err=True)
    return hardware


def _show(hardware: Hardware) -> None:
    from edgekit.cli.hardware_table import rows
    from edgekit.cli.output import table

    table(["", ""], [list(row) for row in rows(hardware)])
    if hardware.unknown:
        click.echo()
        table(["unknown", "because"], [[field, reason] for field, reason in sorted(hardware.unknown.items())])


def _show_choices(choices: list[RuntimeChoice], bundle: Path | None) -> None:
    from edgekit.cli.hardware_table import explain
    from edgekit.cli.output import printable, table

    weights = choices[0].artifact.shape.token_weights / 1e9
    name = bundle.name if bundle else f"a model of {weights:.1f} billion weights in 4 bits"
    click.echo(printable(f"\nFor {name}{'' if bundle else ', as an example'}:"))
    table(["", ""], [list(row) for row in explain(choices)])
