"""edgekit convert-adapter."""

from __future__ import annotations

from pathlib import Path

import click

EPILOG = """\b
Example:
  edgekit convert-adapter ./lora --base ./llama-3.2-1b -o lora.gguf
  llama-cli -m base.gguf --lora lora.gguf
"""


@click.command("convert-adapter", epilog=EPILOG)
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--base", required=True, type=click.Path(path_type=Path), help="The base it was trained on.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="GGUF file to write.")
@click.option("--type", "kind", type=click.Choice(["F32", "F16", "BF16"], case_sensitive=False), default="F32",
              show_default=True, help="Type that the factors are stored in.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(adapter: Path, base: Path, out: Path, kind: str, force: bool, as_json: bool) -> None:
    """Write ADAPTER as a GGUF file that llama.cpp applies to its base at run time, unmerged.

    Needs the base's config and tensor shapes, not its weights' values. What only a merge can take along (saved
    modules, tied heads) is refused with the reason.
    """
    from edgekit.cli.output import print_json
    from edgekit.convert_adapter import convert_adapter
    from edgekit.units import size

    written = convert_adapter(adapter, base, out, kind=kind.upper(), force=force)
    nbytes = out.stat().st_size
    if as_json:
        print_json({"file": str(out), "size": nbytes, "architecture": written.arch,
                    "alpha": written.alpha, "tensors": len(written.factors)})  # fmt: skip
    else:
        click.echo(f"{out}: {len(written.factors)} tensors, {size(nbytes)}, alpha {written.alpha:g}")
        click.echo(f"for {written.arch} bases, with llama.cpp's --lora {out}")
