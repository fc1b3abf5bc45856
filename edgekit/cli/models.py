"""edgekit models."""

from __future__ import annotations

import click

EPILOG = """\b
Example:
  edgekit models --json
"""


@click.command("models", epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def command(as_json: bool) -> None:
    """List the models that are converted to GGUF, and how each was checked.

    Figures are of tiny random models with each one's layout, against transformers: the largest difference of a
    logit over 64 positions, without and with a LoRA merged into every linear layer.
    """
    import msgspec

    from edgekit.cli.output import print_json, table
    from edgekit.converters.gguf.checked import checked

    if as_json:
        print_json(msgspec.to_builtins(checked()))
        return
    rows = [
        [one.model, one.architecture, f"{one.logits:.0e}", "-" if one.lora is None else f"{one.lora:.0e}",
         one.converter or "-", one.tokenizer]
        for one in checked()
    ]  # fmt: skip
    table(["model", "architecture", "logits", "with LoRA", "llama.cpp's converter", "tokenizer"], rows)
    click.echo(
        "\nAnything else is refused, or converted by your own llama.cpp: edgekit build --with-llama-cpp DIR"
    )
