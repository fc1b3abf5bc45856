"""``edgekit run``: one prompt, one answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgekit.answer import Options
    from edgekit.runtimes.request import Finish


@click.command(
    epilog="Example: edgekit run dist/restaurant-q4_k_m --extract -p 'A table for two at seven, Ada Lovelace'"
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-p", "--prompt", required=True, metavar="TEXT", help="The prompt; - reads standard input.")
@click.option("--system", metavar="TEXT", help="A system text, for models whose chat template takes one.")
@click.option(
    "--schema", "schema_file", type=click.Path(path_type=Path), help="A JSON schema for the answer."
)
@click.option("--extract", is_flag=True, help="Put TEXT into the bundle's own prompt, under its own schema.")
@click.option("--raw", is_flag=True, help="Continue TEXT as it stands, without the chat template.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object with the answer and its figures."
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text; repeatable.")
@click.option(
    "--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest token."
)
@click.option("--top-k", type=int, default=0, help="Keep the k likeliest tokens; 0 keeps all.")
@click.option("--top-p", type=float, default=1.0, help="Keep the likeliest tokens up to this probability.")
@click.option("--min-p", type=float, default=0.0, help="Keep tokens this likely relative to the likeliest.")
@click.option("--seed", type=int, help="The same seed gives the same answer.")
@click.option("--ctx", "n_ctx", type=click.IntRange(min=1), help="Context in tokens.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0 takes the physical cores.")
@click.option("--verify", is_flag=True, help="Check the artifact's SHA-256 before it is loaded.")
def command(
    bundle: Path,
    prompt: str,
    system: str | None,
    schema_file: Path | None,
    extract: bool,
    raw: bool,
    as_json: bool,
    n_ctx: int | None,
    threads: int,
    verify: bool,
    **sampling: Any,
) -> None:
    """Answer one prompt from BUNDLE (a folder, or a .gguf file).

    Text streams as it comes. With a schema, or --extract, the answer is one JSON value. --json prints {"text",
    "data", "finish", "prompt_tokens", "tokens", "seconds"}: data is the parsed value, null without a schema or where
    the answer was cut off; finish is stop, length or schema.
    """
    from edgekit.files import read_json
    from edgekit.model import load

    if extract and (system is not None or raw):
        raise click.UsageError("--extract uses the bundle's own prompt: leave --system and --raw out")
    options: Options = {**sampling}  # type: ignore[typeddict-item]
    if schema_file is not None:
        options["schema"] = read_json(schema_file)
    text = sys.stdin.read() if prompt == "-" else prompt
    with load(bundle, n_ctx=n_ctx, threads=threads, verify=verify) as model:
        if extract:
            text = model.extraction_prompt(text)
            options.setdefault("schema", model.extraction_schema())
        pieces = model.pieces(text, system=system, raw=raw, **options)
        _show(pieces, options.get("schema") is not None, as_json)


def _show(pieces: Any, has_schema: bool, as_json: bool) -> None:
    """Print an answer: as it comes, or whole where it is JSON that must not be cut off."""
    from edgekit.answer import collect, parse
    from edgekit.errors import InputError

    if not as_json and not has_schema:
        for piece in pieces:
            if isinstance(piece, str):
                click.echo(piece, nl=False)
        click.echo()
        return
    answer, finish = collect(pieces)
    cut = finish.reason == "length"
    data = parse(answer) if has_schema and not cut else None
    if as_json:
        click.echo(json.dumps(_figures(answer, data, finish), ensure_ascii=False))
    elif cut:
        raise InputError(
            f"the answer was cut off after {finish.tokens} tokens, in the middle of its JSON",
            found=answer[-200:],
            next_step="raise --max-tokens or --ctx, or bound the lengths in the schema",
        )
    else:
        click.echo(answer)


def _figures(answer: str, data: Any, finish: Finish) -> dict[str, Any]:
    return {
        "text": answer,
        "data": data,
        "finish": finish.reason,
        "prompt_tokens": finish.prompt_tokens,
        "tokens": finish.tokens,
        "seconds": round(finish.seconds, 3),
    }
