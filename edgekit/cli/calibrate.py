"""edgekit calibrate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgekit.project import BuildSpec

PATH = click.Path(path_type=Path)
EPILOG = """\b
Examples:
  edgekit calibrate BASE --adapter LORA --data train.jsonl --prompt prompt.txt
  edgekit calibrate BASE --data text.txt -o imatrix.gguf
  edgekit calibrate --data train.jsonl           the model and prompt of edgekit.toml in this folder
  edgekit build BASE --adapter LORA --quant Q3_K_M --calibration imatrix.gguf
"""


@click.command("calibrate", epilog=EPILOG)
@click.argument("base", required=False, type=PATH)
@click.option(
    "--adapter", "adapters", multiple=True, metavar="DIR[:WEIGHT]", help="LoRA adapter; repeatable."
)
@click.option("--data", required=True, type=PATH,
              help='Plain text, or JSONL: {"text", "expected"} with --prompt, {"messages"}, or {"text"}.')  # fmt: skip
@click.option(
    "-o", "--out", type=PATH, default=Path("imatrix.gguf"), show_default=True, help="The matrix's file."
)
@click.option("--prompt", type=PATH, help="Prompt template file with {text} in it, for task records.")
@click.option("--system", help="System message that goes with the prompt.")
@click.option("--schema", type=PATH, help="JSON Schema that task records have to match.")
@click.option("--chunk", type=int, help="Tokens read from an empty context.  [default: 512]")
@click.option("--chunks", type=int, help="Chunks at most.  [default: all of the data]")
@click.option("--run-as", type=click.Choice(["Q8_0", "F16", "BF16", "F32"], case_sensitive=False), default="Q8_0",
              show_default=True, help="What the merged model is run as.")  # fmt: skip
@click.option("--with-llama-cpp", "llama_cpp", type=PATH, metavar="DIR",
              help="For models that edgekit doesn't convert: a llama.cpp source folder.")  # fmt: skip
@click.option("--project", type=PATH, help="Project file.  [default: edgekit.toml]")
@click.option("--threads", type=click.IntRange(1), help="Threads.  [default: physical cores]")
@click.option("--force", is_flag=True, help="Replace a matrix that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    base: Path | None,
    data: Path,
    out: Path,
    chunk: int | None,
    chunks: int | None,
    run_as: str,
    project: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Compute the importance matrix of BASE with its adapters merged: which columns of its weights matter on your data.

    The merged model is written for the time being and run over the data with llama.cpp; no torch. The file is in
    llama-imatrix's format; `edgekit build --calibration` takes it, and llama-quantize does.
    """
    from edgekit.cli.output import bars, print_json
    from edgekit.importance import Options, calibrate

    if base is not None and project:
        raise click.UsageError("BASE and --project are two ways to say what to calibrate")
    spec = _spec(base, project, given)
    with bars() as progress:
        found = calibrate(spec, data, out, Options(chunk, chunks, run_as.upper()), progress)
    if as_json:
        print_json(
            {
                "imatrix": str(found.path),
                "weights": found.weights,
                "tokens": found.tokens,
                "sequences": found.sequences,
                "tokens_sha256": found.tokens_sha256,
            }
        )
        return
    click.echo(
        f"{found.path}: {found.weights} weights, measured over {found.tokens:,} tokens; "
        f"try: edgekit build … --calibration {found.path} --quant Q3_K_M"
    )


def _spec(base: Path | None, project: Path | None, given: dict[str, Any]) -> BuildSpec:
    from edgekit.files import read_json
    from edgekit.project import FILE, BuildSpec, name_of, parse_adapter, read_project, read_prompt

    prompts = {
        "prompt": read_prompt(given["prompt"]) if given["prompt"] else None,
        "system": given["system"],
        "output_schema": read_json(given["schema"], limit=1 << 16) if given["schema"] else None,
    }
    if base is None:
        if given["adapters"] or given["llama_cpp"]:
            raise click.UsageError(
                "--adapter and --with-llama-cpp go with a BASE; a project file has its own"
            )
        spec = read_project(project or Path(FILE), force=given["force"], threads=given["threads"])
        return replace(spec, **{name: value for name, value in prompts.items() if value is not None})
    adapters = tuple(parse_adapter(text) for text in given["adapters"])
    return BuildSpec(
        base=base,
        out=Path("dist"),
        name=name_of(base, adapters),
        adapters=adapters,
        llama_cpp=given["llama_cpp"],
        threads=given["threads"],
        force=given["force"],
        **prompts,
    )
