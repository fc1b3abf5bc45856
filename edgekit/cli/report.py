"""edgekit report."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)
EPILOG = """\b
Examples:
  edgekit report dist -o report.html
  edgekit report dist --eval evaluation.json -o report.html     with the answers that changed
  edgekit report dist --markdown >> "$GITHUB_STEP_SUMMARY"
"""


@click.command("report", epilog=EPILOG)
@click.argument("bundles", nargs=-1, required=True, type=PATH, metavar="DIST…")
@click.option(
    "--eval",
    "evaluations",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="What edgekit eval -o wrote; repeatable.",
)
@click.option("-o", "--out", type=PATH, metavar="FILE", help="The page to write.  [default: report.html]")
@click.option(
    "--markdown",
    "as_markdown",
    is_flag=True,
    help="A summary in Markdown instead, printed unless -o is given.",
)
@click.option("--title", help="What stands above it.  [default: the bundles' name]")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def command(
    bundles: tuple[Path, ...], evaluations: tuple[Path, ...], out: Path | None, as_markdown: bool,
    title: str | None, force: bool,
) -> None:  # fmt: skip
    """Set bundles beside each other: size, KL divergence, F1, speed, gates, fields, flips, types by layer.

    DIST is a folder of bundles, or a bundle. The page is one file that needs no network.
    """
    from edgekit.atomic import atomic_file
    from edgekit.report.collect import collect
    from edgekit.report.markdown import markdown
    from edgekit.report.page import page

    entries = collect(bundles, evaluations)
    names = dict.fromkeys(entry.manifest.name for entry in entries)
    title = title or f"{', '.join(names)}: what it cost"
    if as_markdown and out is None:
        click.echo(markdown(entries, title), nl=False)
        return
    place = out or Path("report.html")
    with atomic_file(place, force=force) as temporary:
        temporary.write_text((markdown if as_markdown else page)(entries, title), encoding="utf-8")
    click.echo(f"written: {place}")
