"""edgekit export."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

PATH = click.Path(path_type=Path)
NAMES = ("ollama", "llama-server", "lmstudio", "onnxruntime-genai", "vllm", "transformers")
EPILOG = """\b
Examples:
  edgekit export dist/restaurant-q4_k_m --to ollama -o out/
  edgekit export dist/restaurant-onnx-int4 --to onnxruntime-genai -o out/
"""


@click.command("export", epilog=EPILOG)
@click.argument("bundle", type=PATH)
@click.option("--to", "tool", type=click.Choice(NAMES), required=True, help="The tool that is to run it.")
@click.option("-o", "--out", type=PATH, required=True, metavar="DIR", help="Folder to write.")
@click.option(
    "--ctx", type=click.IntRange(1), help="Tokens of context.  [default: 4096, or what the model has]"
)
@click.option("--force", is_flag=True, help="Replace a folder that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(bundle: Path, tool: str, out: Path, ctx: int | None, force: bool, as_json: bool) -> None:
    """Write BUNDLE as another tool takes it: model, chat template, stop words, parameters, system prompt, a request.

    Digests are checked first. Files are linked where the disk allows, so that a model isn't there twice.
    """
    from edgekit.cli.output import bars, print_json
    from edgekit.export import export

    with bars() as progress:
        found = export(bundle, tool, out, context=ctx, force=force, progress=progress)
    if as_json:
        print_json(dataclasses.asdict(found) | {"folder": str(found.folder)})
        return
    click.echo(f"{found.folder}: {', '.join(found.files)}")
    for note in found.notes:
        click.echo(f"note: {note}")
    click.echo("\nNext:")
    for line in found.commands:
        click.echo(f"  {line}")
