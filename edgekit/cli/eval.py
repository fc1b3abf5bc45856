"""``edgekit eval``: what bundles are worth, beside a reference."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgekit.evaluate import Plan

PATH = click.Path(path_type=Path)
EPILOG = """\b
Examples:
  edgekit eval dist/* --reference BASE --adapter LORA --task labelled.jsonl --text wiki.txt
  edgekit eval dist/restaurant-q4_k_m --reference dist/restaurant-f16 --task labelled.jsonl --gate 'f1_drop <= 0.01'
  edgekit eval model-q4_k_m.gguf --reference model-f16.gguf --text wiki.txt --gate 'kld <= 0.02' --no-speed
"""


@click.command("eval", epilog=EPILOG)
@click.argument("bundles", nargs=-1, required=True, type=PATH, metavar="BUNDLE…")
@click.option("--reference", type=PATH, help="A checkpoint's folder, a bundle or a .gguf file, unquantized.")
@click.option(
    "--adapter", "adapters", multiple=True, metavar="DIR[:WEIGHT]",
    help="LoRA adapter, merged into the reference; repeatable.",
)  # fmt: skip
@click.option(
    "--reference-type", type=click.Choice(["F16", "F32", "BF16"]), default="F16", show_default=True,
    help="What a checkpoint is built in, to refer to.",
)  # fmt: skip
@click.option(
    "--reference-runtime", type=click.Choice(["llama.cpp", "transformers"]), default="llama.cpp", show_default=True,
    help="What runs the reference; transformers, an extra, in F32 and for --text.",
)  # fmt: skip
@click.option("--task", type=PATH, help='Labelled JSONL, {"id", "text", "expected"}, none seen in training.')
@click.option("--text", type=PATH, help="Plain text for perplexity and KL divergence.")
@click.option(
    "--gate", "gates", multiple=True, metavar="BAR", help="'f1 >= 0.85', 'size <= 2GB'; repeatable."
)
@click.option(
    "--prompt", metavar="TEMPLATE", help="A template with {text}, or @FILE; the bundles' own by default."
)
@click.option("--schema", "schema_file", type=PATH, help="A JSON schema; the bundles' own by default.")
@click.option(
    "--ctx", "chunk", type=click.IntRange(8, 1 << 20), metavar="N",
    help="Tokens of a chunk of the text.  [default: 512, or the models' context]",
)  # fmt: skip
@click.option("--chunks", type=click.IntRange(1), metavar="N", help="At most so many; by default all.")
@click.option("--speed/--no-speed", default=True, help="Also measure speed and memory.  [default: yes]")
@click.option(
    "--threads", type=click.IntRange(min=0), default=0, help="0 takes what is picked for this machine."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap intervals."
)
@click.option("--fresh", is_flag=True, help="Measure again what earlier evaluations have measured.")
@click.option("-o", "--out", type=PATH, metavar="FILE", help="Also write everything to a file, as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(out: Path | None, as_json: bool, **options: Any) -> None:
    """Measure BUNDLE… (folders, or .gguf files) on a text, on labelled records, or on both.

    Beside a reference: how far the probabilities moved (KL divergence), which answers flipped, and whether the
    difference is more than chance. A gate that fails ends with exit code 3, after everything is shown and written.
    """
    from edgekit import gates
    from edgekit.atomic import atomic_file
    from edgekit.bundle import write_json
    from edgekit.cli.eval_tables import show
    from edgekit.cli.output import bars, print_json
    from edgekit.evaluate import document, evaluate

    plan = _plan(options)
    with ExitStack() as stack:
        # A place that can't be written is known before hours of work.
        temporary = None if out is None else stack.enter_context(atomic_file(out, force=True))
        with bars() as progress:
            found = evaluate(plan, progress)
        if temporary is not None:
            write_json(temporary, document(found))
    if as_json:
        print_json(document(found))
    else:
        show(found)
        if out is not None:
            click.echo(f"\nwritten: {out}")
    gates.require(found.verdicts)


def _plan(options: dict[str, Any]) -> Plan:
    from edgekit import gates
    from edgekit.evaluate import Plan
    from edgekit.files import read_json, read_text
    from edgekit.project import parse_adapter

    if options["task"] is None and options["text"] is None:
        raise click.UsageError("there is nothing to evaluate on: pass --task, --text, or both")
    if options["adapters"] and options["reference"] is None:
        raise click.UsageError("--adapter is merged into the reference: pass --reference, too")
    prompt, schema = options.pop("prompt"), options.pop("schema_file")
    if prompt is not None and prompt.startswith("@"):
        prompt = read_text(Path(prompt[1:])).rstrip("\r\n")
    return Plan(
        bundles=options.pop("bundles"),
        adapters=tuple(map(parse_adapter, options.pop("adapters"))),
        gates=tuple(map(gates.parse, options.pop("gates"))),
        prompt=prompt,
        schema=None if schema is None else read_json(schema, limit=1 << 16),
        cached=not options.pop("fresh"),
        **options,
    )
