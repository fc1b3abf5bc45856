"""edgekit merge."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

PATH = click.Path(path_type=Path)
EPILOG = """\b
Examples:
  edgekit merge BASE --adapter LORA -o merged/
  edgekit merge BASE --adapter A:0.7 --adapter B:0.3 --dtype F32 -o merged/
"""


@click.command("merge", epilog=EPILOG)
@click.argument("base", type=PATH)
@click.option(
    "--adapter", "adapters", multiple=True, metavar="DIR[:WEIGHT]", help="LoRA adapter; repeatable."
)
@click.option(
    "-o", "--out", type=PATH, required=True, metavar="DIR", help="Folder for the merged checkpoint."
)
@click.option(
    "--dtype", type=click.Choice(["F32", "F16", "BF16"]), help="Of all tensors.  [default: the base's own]"
)
@click.option(
    "--shard-size", default="5G", show_default=True, metavar="SIZE", help="Bytes of a file at most: 2G, 500M."
)
@click.option("--threads", type=click.IntRange(1), help="Threads to merge with.  [default: physical cores]")
@click.option("--force", is_flag=True, help="Replace a folder that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    base: Path, adapters: tuple[str, ...], out: Path, dtype: str | None, shard_size: str, threads: int | None,
    force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Merge adapters into BASE, a checkpoint's folder, and write a checkpoint that transformers and others load.

    Streamed: memory holds some rows, whatever the model's size. Nothing is quantized; edgekit build needs no merge before it.
    """
    from edgekit.budget import parse_bytes
    from edgekit.cli.output import bars, print_json
    from edgekit.merging import merge
    from edgekit.project import parse_adapter
    from edgekit.units import size

    with bars() as progress:
        found = merge(
            base, [parse_adapter(text) for text in adapters], out, dtype=dtype,
            shard_bytes=parse_bytes(shard_size), threads=threads, force=force, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(dataclasses.asdict(found) | {"folder": str(found.folder)})
        return
    files = "1 file" if found.shards == 1 else f"{found.shards} files"
    click.echo(
        f"{found.folder}: {found.parameters:,} parameters in {files}, {size(found.size)}; "
        f"{found.changed} tensors changed; {found.seconds:.1f} s"
    )
