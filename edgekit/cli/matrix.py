"""edgekit matrix."""

from __future__ import annotations

import json
from pathlib import Path

import click

EPILOG = """\b
Examples:
  edgekit matrix                                      the edgekit.toml in this folder
  echo "matrix=$(edgekit matrix)" >> "$GITHUB_OUTPUT"    for strategy.matrix: ${{ fromJSON(…) }}
"""


@click.command("matrix", epilog=EPILOG)
@click.option("--project", type=click.Path(path_type=Path), help="Project file.  [default: edgekit.toml]")
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    default=Path(".edgekit-cache"),
    show_default=True,
    metavar="DIR",
    help="Where the commands keep bundles; digests of what is hashed here are kept there, too.",
)
def command(project: Path | None, cache_dir: Path) -> None:
    """Print one line of JSON: for every target and quantization of a project its name, command and cache key.

    The key is the SHA-256 of all that decides a bundle's bytes: base, adapters, recipe, target and versions of tools.
    Nothing is built; sources are hashed.
    """
    from edgekit.matrix import matrix
    from edgekit.project import FILE, read_project

    found = matrix(read_project(project or Path(FILE)), project, cache_dir)
    click.echo(json.dumps(found, ensure_ascii=False))
