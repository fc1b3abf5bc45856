"""edgekit demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgekit.demo import Demo

SHOWN = 5


@click.command("demo", epilog="Example: edgekit demo -o dist/")
@click.option(
    "--example",
    type=click.Path(path_type=Path),
    default=Path("examples/restaurant"),
    show_default=True,
    help="Folder with edgekit.toml and task/test.jsonl.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Keep the bundles here.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures and all answers as JSON.")
def command(example: Path, out: Path | None, as_json: bool) -> None:
    """Build the restaurant example and measure the base alone against the merged bundles.

    Lints and merges the adapter, builds Q4_K_M and Q8_0 bundles, and extracts booking details from held-out
    utterances with the schema enforced. No network.
    """
    from edgekit import demo
    from edgekit.cli.output import bars, print_json
    from edgekit.project import FILE, read_project

    if not as_json and (example / FILE).is_file():
        from edgekit.cli.inspect import show_adapter
        from edgekit.describe import describe_adapter

        spec = read_project(example / FILE)
        for adapter, _ in spec.adapters:
            show_adapter(describe_adapter(adapter, spec.base))
        click.echo()
    with bars() as progress:
        found = demo.run(example, out, progress)
    if as_json:
        print_json(_as_json(found))
    else:
        _show(found, out)


def _show(found: Demo, out: Path | None) -> None:
    from edgekit.cli.output import table
    from edgekit.units import size

    rows = [
        [
            r.name,
            size(r.size),
            f"{r.score.f1:.3f}",
            f"{r.score.records_right:.1%}",
            f"{r.valid:.1%}",
            f"{r.per_second:.1f}",
        ]
        for r in found.rows
    ]
    table(["model", "file", "field F1", "records right", "schema valid", "records/s"], rows)
    best = found.rows[-1]
    click.echo(f"\nFirst {SHOWN} of {len(found.utterances)}, {best.name}:")
    for text, wanted, answer in zip(found.utterances[:SHOWN], found.expected, best.answers, strict=False):
        right = (
            "right" if answer == wanted else click.style("wrong", fg="red") + f", expected {_compact(wanted)}"
        )
        click.echo(f"  {text}\n    {_compact(answer)}  {right}")
    if out is not None:
        click.echo(
            f"\nBundles are in {out}; try: edgekit run {out}/restaurant-q4_k_m --extract -p 'Table for two at 8'"
        )


def _compact(record: object) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def _as_json(found: Demo) -> dict[str, object]:
    return {
        "utterances": len(found.utterances),
        "models": [
            {
                "model": row.name, "size": row.size, "field_f1": row.score.f1, "precision": row.score.precision,
                "recall": row.score.recall, "records_right": row.score.records_right, "schema_valid": row.valid,
                "records_per_second": row.per_second, "answers": row.answers,
            }
            for row in found.rows
        ],
    }  # fmt: skip
