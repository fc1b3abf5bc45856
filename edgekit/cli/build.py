"""edgekit build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import build_gates
from edgekit.forms import FORMS

if TYPE_CHECKING:
    from edgekit.budget import Budget
    from edgekit.forms import Form
    from edgekit.project import BuildSpec

_BOTH = ("out", "quants", *build_gates.NAMES)
"""Options that say of a project, too, what is built and where."""

EPILOG = """\b
Examples:
  edgekit build                      what edgekit.toml in this folder says
  edgekit build BASE --adapter LORA --quant Q4_K_M --quant Q8_0 -o dist/
  edgekit build BASE --adapter LORA --target laptop-8gb --target my-board.toml
  edgekit build model-f16.gguf --quant Q4_K_M
  edgekit build BASE --adapter LORA --format onnx --quant INT4 --onnx block_size=64
  edgekit build BASE --adapter LORA --format gptq --calibration train.jsonl --prompt prompt.txt
  edgekit build BASE --adapter LORA --quant Q3_K_M --calibration train.jsonl --prompt prompt.txt
  edgekit build BASE --adapter LORA --quant auto --bpw 4.5 --calibration train.jsonl --prompt prompt.txt
  edgekit build BASE --adapter LORA --prompt prompt.txt --schema schema.json --task labelled.jsonl --gate 'f1 >= 0.85'
  edgekit build BASE --adapter LORA --quant smallest --text text.txt --gate 'kld <= 0.02'
  edgekit build BASE --adapter A:0.7 --adapter B:0.3 --prompt prompt.txt --schema schema.json
"""


@click.command("build", epilog=EPILOG)
@click.argument("base", required=False, type=click.Path(path_type=Path))
@click.option(
    "--adapter", "adapters", multiple=True, metavar="DIR[:WEIGHT]", help="LoRA adapter; repeatable."
)
@click.option(
    "--quant",
    "quants",
    multiple=True,
    metavar="TYPE",
    help="Q4_K_M, Q8_0, F16, …, or smallest that passes; of other formats INT4, INT8, …; repeatable.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMS),
    help="What is built.  [default: gguf]",
)
@click.option(
    "--onnx", "onnx", multiple=True, metavar="KEY=VALUE",
    help="With --format onnx: provider=cpu, block_size=32, symmetric=true, accuracy_level=4, algorithm=rtn; repeatable.",
)  # fmt: skip
@click.option(
    "--gptq", "gptq", multiple=True, metavar="KEY=VALUE",
    help="With --format gptq or awq: group_size=128, act_order=false, symmetric=true, samples=256, length=512; repeatable.",
)  # fmt: skip
@click.option(
    "--target", "targets", multiple=True, metavar="NAME|FILE",
    help="The best for a device of `edgekit targets`, or of a .toml file; repeatable.",
)  # fmt: skip
@click.option(
    "--tensor-type", "types", multiple=True, metavar="REGEX=TYPE", help="Override some tensors' type."
)
@click.option(
    "--imatrix", type=click.Path(path_type=Path), help="Importance matrix that llama-imatrix wrote."
)
@click.option(
    "--calibration", type=click.Path(path_type=Path), metavar="FILE",
    help="Text or JSONL records like what the model will see, or edgekit calibrate's file: spends bits where they matter.",
)  # fmt: skip
@click.option("--bpw", type=float, metavar="BITS", help="With -q auto: bits per weight, on average.")
@click.option("--max-size", metavar="SIZE", help="With -q auto: bytes of the model's files, such as 2.1GB.")
@click.option(
    "--max-kld", type=float, metavar="NATS", help="With -q auto: mean KL divergence on the calibration data."
)
@click.option(
    "--recipe", type=click.Path(path_type=Path), metavar="FILE",
    help="With -q auto: the types of recipe.toml, as an earlier build found them.",
)  # fmt: skip
@click.option(
    "--refine",
    is_flag=True,
    help="Round with error feedback (GPTQ) where that loses less on the calibration data.",
)
@click.option(
    "--with-llama-cpp", "llama_cpp", type=click.Path(path_type=Path), metavar="DIR",
    help="For models that edgekit doesn't convert: a llama.cpp source folder, whose converter is run.",
)  # fmt: skip
@click.option("--split-size", metavar="SIZE", help="Several files of at most SIZE each: 2G, 500M.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder for the bundles.  [default: dist]")
@click.option(
    "--name", help="Bundles are named NAME-quant, NAME-target.  [default: the adapter's or base's folder]"
)
@click.option("--version", "version", help="Version for the manifest.")
@click.option("--counter", type=click.IntRange(0), help="Release number that only grows.")
@click.option("--prompt", type=click.Path(path_type=Path), help="Prompt template file with {text} in it.")
@click.option("--system", help="System message that goes with the prompt.")
@click.option("--schema", type=click.Path(path_type=Path), help="JSON Schema for the output.")
@click.option("--licence", help="Licence of the result, for the manifest.")
@click.option(
    "--intended-use", "intended_use", metavar="TEXT", help="What the result is meant for, for the model card."
)
@build_gates.options
@click.option("--project", type=click.Path(path_type=Path), help="Project file.  [default: edgekit.toml]")
@click.option(
    "--threads", type=click.IntRange(1), help="Threads to quantize with.  [default: physical cores]"
)
@click.option(
    "--allow-nonfinite", is_flag=True, help="Write infinite and NaN weights instead of refusing them."
)
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), metavar="DIR",
    help="Keep bundles there, and build none again whose inputs are the same.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace bundles that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    base: Path | None,
    as_json: bool,
    force: bool,
    threads: int | None,
    project: Path | None,
    allow_nonfinite: bool,
    targets: tuple[str, ...],
    cache_dir: Path | None,
    **given: Any,
) -> None:
    """Merge adapters into BASE, quantize, and pack one bundle per quantization and target.

    BASE is the folder of a Hugging Face checkpoint, or a .gguf file. With --task, --text or --gate every bundle is
    measured beside the unquantized model; one that fails a gate isn't published, and the exit code is 3.
    """
    from edgekit.build import build
    from edgekit.buildcache import build_cached
    from edgekit.cli.build_report import report
    from edgekit.cli.output import bars
    from edgekit.judging import require

    if base is None:
        from edgekit.project import FILE, read_project

        names = {"adapters": "adapter", "types": "tensor-type", "form": "format"}
        if wrong := [
            name for name, value in given.items() if value not in (None, (), False) and name not in _BOTH
        ]:
            raise click.UsageError(
                f"--{names.get(wrong[0], wrong[0].replace('_', '-'))} goes with a BASE; a project file has its own"
            )
        spec = read_project(project or Path(FILE), force=force, threads=threads, targets=targets)
        if given["quants"]:
            spec = replace(spec, quantizations=given["quants"], devices=spec.devices if targets else ())
        if given["out"]:
            spec = replace(spec, out=given["out"])
        spec = replace(spec, trial=build_gates.trial(given, spec.trial))
    elif project:
        raise click.UsageError("BASE and --project are two ways to say what to build")
    else:
        spec = _spec(base, force, threads, targets, given)
    if allow_nonfinite:
        spec = replace(spec, allow_nonfinite=True)
    with bars() as progress:
        cached = build_cached(spec, cache_dir, progress) if cache_dir else None
        built = [one.built for one in cached] if cached else build(spec, progress)
    report(built, cached, as_json)
    require(built)


def _spec(
    base: Path, force: bool, threads: int | None, targets: tuple[str, ...], given: dict[str, Any]
) -> BuildSpec:
    from edgekit.files import read_json
    from edgekit.project import BuildSpec, name_of, parse_adapter, parse_size, read_prompt, usual
    from edgekit.targets import resolve
    from edgekit.trial import Trial

    adapters = tuple(parse_adapter(text) for text in given["adapters"])
    converted = _converted(given)
    quants = given["quants"] or (() if targets else usual(converted["format"]))
    return BuildSpec(
        base=base,
        out=given["out"] or Path("dist"),
        name=given["name"] or name_of(base, adapters),
        adapters=adapters,
        quantizations=quants,
        budget=_budget(given, quants),
        recipe=given["recipe"],
        refine=given["refine"],
        version=given["version"] or "0.1.0",
        counter=1 if given["counter"] is None else given["counter"],
        tensor_types=given["types"],
        imatrix=given["imatrix"],
        calibration=given["calibration"],
        llama_cpp=given["llama_cpp"],
        split_size=parse_size(given["split_size"]) if given["split_size"] else None,
        prompt=read_prompt(given["prompt"]) if given["prompt"] else None,
        system=given["system"],
        output_schema=read_json(given["schema"], limit=1 << 16) if given["schema"] else None,
        licence=given["licence"],
        devices=tuple(resolve(targets, {})),
        threads=threads,
        force=force,
        trial=build_gates.trial(given, Trial()),
        intended_use=given["intended_use"],
        **converted,
    )


def _converted(given: dict[str, Any]) -> dict[str, Any]:
    """The format, and the settings of its converter."""
    from edgekit.gptq_settings import GptqSettings
    from edgekit.onnx_settings import OnnxSettings
    from edgekit.settings import parse

    form: Form = given["form"] or "gguf"
    if given["onnx"] and form != "onnx":
        raise click.UsageError("--onnx goes with --format onnx")
    if given["gptq"] and form not in ("gptq", "awq"):
        raise click.UsageError("--gptq goes with --format gptq or awq")
    return {
        "format": form,
        "onnx": parse(given["onnx"], OnnxSettings, "an ONNX export"),
        "gptq": parse(given["gptq"], GptqSettings, "GPTQ or AWQ"),
    }


def _budget(given: dict[str, Any], quants: Sequence[str]) -> Budget | None:
    from edgekit.budget import Budget, parse_bytes

    named = [name for name in ("bpw", "max_size", "max_kld", "recipe") if given[name] is not None]
    if named and "auto" not in (name.lower() for name in quants):
        raise click.UsageError(f"--{named[0].replace('_', '-')} goes with -q auto")
    if not named or named == ["recipe"]:
        return None
    if "recipe" in named:
        raise click.UsageError("--recipe leaves nothing to choose: pass it without a budget")
    size = None if given["max_size"] is None else parse_bytes(given["max_size"])
    return Budget(given["bpw"], size, given["max_kld"])
