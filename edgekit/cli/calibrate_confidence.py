"""edgekit calibrate-confidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgekit.reliability import Figures, Reliability

EPILOG = """\b
Example:
  edgekit calibrate-confidence dist/restaurant-q4_k_m --task labelled.jsonl
"""


@click.command("calibrate-confidence", epilog=EPILOG)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--task", required=True, type=click.Path(path_type=Path),
              help='Labelled JSONL, {"id", "text", "expected"}, 50 records or more, none seen in training.')  # fmt: skip
@click.option("--folds", type=click.IntRange(2, 20), default=5, show_default=True,
              help="Parts, split by the ids' hashes, held out in turn for the published figures.")  # fmt: skip
@click.option(
    "--counter", type=click.IntRange(min=1), help="New release counter, for a bundle that is out already."
)
@click.option("--drop-signature", is_flag=True, help="Calibrate a signed bundle; sign it again afterwards.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0 takes the physical cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(
    bundle: Path,
    task: Path,
    folds: int,
    counter: int | None,
    drop_signature: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Fit BUNDLE's confidence on labelled records, so that 0.9 means right nine times in ten.

    Runs the bundle over the records, fits a map, and stores it in the bundle with how it did on records held out of
    the fit. The whole bundle is replaced in one step, or not at all.
    """
    import msgspec

    from edgekit.calibrate import Options, calibrate
    from edgekit.cli.output import bars, print_json
    from edgekit.traces import tracing

    options = Options(folds, counter, drop_signature)
    with bars() as progress:
        manifest = calibrate(bundle, task, lambda opened: tracing(opened, threads), options, progress)
    assert manifest.confidence is not None
    if as_json:
        print_json(
            {"bundle": str(bundle), "counter": manifest.counter, **msgspec.to_builtins(manifest.confidence)}
        )
        return
    show(manifest.confidence)
    if drop_signature:
        click.echo("\nThe bundle is no longer signed: sign it again.")


def show(found: Reliability) -> None:
    """The figures as two tables, and what they are of."""
    from edgekit.cli.output import table

    rows = [_row(name, one) for name, one in found.fields.items()]
    rows += [_row("all fields", found.all_fields), _row("records", found.overall)]
    table(["field", "n", "accuracy", "confidence", "ECE before", "after", "by chance"], rows)
    click.echo()
    table(
        ["most confident", "wrong", "confidence from"],
        [[f"{one.coverage:.0%}", f"{one.risk:.2%}", f"{one.confidence:.3f}"] for one in found.risks],
    )
    failed = f", {found.failed} more had no answer" if found.failed else ""
    click.echo(
        f"\n{found.records} records, each measured by a map fitted on the other {found.folds - 1} of {found.folds} "
        f"parts{failed}. The bundle's map is fitted on all of them."
    )


def _row(name: str, one: Figures) -> list[str]:
    shares = (one.accuracy, one.confidence, one.mass_before, one.mass_after, one.by_chance)
    return [name, str(one.cases), *(f"{share:.3f}" for share in shares)]
