"""edgekit init."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("init", epilog="Example: edgekit init --name invoices --base ./llama-3.2-1b --adapter ./lora")
@click.option("--name", default="my-model", show_default=True, help="Name of the bundles.")
@click.option("--base", default="base", show_default=True, help="Folder of the base checkpoint.")
@click.option("--adapter", default="adapter", show_default=True, help="Folder of the LoRA adapter.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("edgekit.toml"), help="File to write."
)
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def command(name: str, base: str, adapter: str, out: Path, force: bool) -> None:
    """Write a commented edgekit.toml, which `edgekit build` then reads."""
    from edgekit.errors import InputError
    from edgekit.template import template

    try:
        with out.open("w" if force else "x", encoding="utf-8") as file:
            file.write(template(name, base, adapter))
    except FileExistsError as error:
        raise InputError("exists already", path=out, next_step="pass --force to replace it") from error
    except OSError as error:
        raise InputError("can't be written", path=out, found=error.strerror) from error
    click.echo(f"wrote {out}; edit it, then run: edgekit build")
