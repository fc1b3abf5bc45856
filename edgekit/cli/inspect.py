"""edgekit inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

EPILOG = """\b
Examples:
  edgekit inspect ./lora --base ./llama-3.2-1b     lint an adapter before a build
  edgekit inspect dist/restaurant-q4_k_m --types
  edgekit inspect model.gguf --json
"""


@click.command("inspect", epilog=EPILOG)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--base", type=click.Path(path_type=Path), help="For an adapter: the base to check it against.")
@click.option("--types", "draw", is_flag=True, help="Draw the type of every weight, by layer.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(path: Path, base: Path | None, draw: bool, as_json: bool) -> None:
    """Show what is inside PATH: a checkpoint, an adapter, a GGUF file or a bundle.

    For an adapter with --base this is the lint: exit code 1 says that it would not merge.
    """
    from edgekit import describe
    from edgekit.cli.output import print_json
    from edgekit.errors import AdapterError
    from edgekit.forms import FOLDERS

    kind = describe.kind_of(path)
    if base is not None and kind != "adapter":
        raise click.UsageError(f"--base goes with an adapter; {path} is a {kind}")
    if kind == "adapter":
        found = describe.describe_adapter(path, base)
    else:
        look = {
            "bundle": describe.describe_bundle,
            "gguf": describe.describe_gguf,
            "onnx": describe.describe_onnx,
        }
        found = look.get(kind, describe.describe_checkpoint)(path)
    if draw and (kind not in {"bundle", "gguf"} or found.get("format") in FOLDERS):
        raise click.UsageError(f"--types goes with a bundle or a GGUF file; {path} is a {kind}")
    if as_json:
        print_json(found)
    else:
        _SHOW[kind](found)
    if not as_json:
        _drawn(found, draw)
    if kind == "adapter" and found["problems"]:
        raise AdapterError(
            "the adapter would not merge", path=path, found=f"{len(found['problems'])} problem(s)"
        )


def _facts(rows: list[tuple[str, object]]) -> None:
    from edgekit.cli.output import table

    table(["", ""], [[name, str(value)] for name, value in rows if value not in (None, [], {}, "")])


def _bundle(found: dict[str, Any]) -> None:
    from edgekit.units import size

    memory = ", ".join(f"{context}: {size(nbytes)}" for context, nbytes in found["memory"].items())
    rows = [
        ("bundle", f"{found['name']} {found['version']} (release {found['counter']})"),
        ("format", f"{found['format']} {found['quantization']}"),
        ("target", found["target"]),
        ("files", ", ".join(f"{name} {size(nbytes)}" for name, nbytes in found["files"].items())),
        ("base", found["base"]),
        ("adapters", ", ".join(found["adapters"])),
        ("licence", found["licence"]),
        ("memory by context", memory),
        ("prompt", found["prompt"]),
        ("output fields", ", ".join(map(str, _fields(found["output_schema"])))),
        ("confidence", _calibration(found["confidence"])),
        ("allocation", _spent(found["allocation"])),
        ("made with", ", ".join(f"{k} {v}" for k, v in (found["settings"] or {}).items() if v is not None)),
        ("built with", ", ".join(f"{name} {version}" for name, version in found["tools"].items())),
    ]
    _facts(rows)
    click.echo()
    _model(found["artifact"])


def _calibration(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not calibrated"
    overall = found["overall"]
    risks = "".join(
        f", {one['risk']:.1%} of the surest {one['coverage']:.0%}"
        for one in found["risks"]
        if one["coverage"] == 0.8
    )
    return (
        f"calibrated on {found['records']} records: calibration error {overall['mass_before']:.3f} before, "
        f"{overall['mass_after']:.3f} after; {1 - overall['accuracy']:.1%} of records wrong{risks}"
    )


def _spent(found: dict[str, Any] | None) -> str | None:
    if found is None:
        return None
    kept = next((one for one in found["candidates"] if one["kept"]), None)
    loss = f", KL divergence {kept['kld']:.3g} on {found['tokens']:,} tokens set apart" if kept else ""
    return (
        f"{found['asked']}: {found['bits']:.2f} bits per quantized weight, rounding {found['rounding']}{loss}"
    )


def _drawn(found: dict[str, Any], asked: bool) -> None:
    from edgekit.cli import allocation

    artifact = found.get("artifact", found)
    chosen = found.get("allocation")
    if asked or chosen:
        click.echo()
        allocation.show(chosen["types"] if chosen else artifact["types"])


def _fields(schema: Any) -> list[str]:
    properties = (schema or {}).get("properties")
    return list(properties) if isinstance(properties, dict) else []


def _model(found: dict[str, Any]) -> None:
    """A GGUF or ONNX model."""
    from edgekit.units import size

    types = ", ".join(f"{kind} {size(nbytes)}" for kind, nbytes in found["bytes_by_type"].items())
    bits = f", {found['bits_per_weight']} bits a weight" if "bits_per_weight" in found else ""
    head = [
        (found["kind"], f"{size(found['size'])}, {found['tensors']} tensors{bits}"),
        ("types", types),
    ]
    _facts([*head, *((key, _short(value)) for key, value in found["keys"].items())])


def _checkpoint(found: dict[str, Any]) -> None:
    from edgekit.units import size

    _facts(
        [
            ("checkpoint", f"{_short(found['architectures'])}, {found['parameters']:,} parameters"),
            (
                "tensors",
                f"{found['tensors']}: " + ", ".join(f"{n} {dtype}" for dtype, n in found["dtypes"].items()),
            ),
            ("embeddings", "tied" if found["tied_embeddings"] else "untied"),
            ("files", ", ".join(f"{name} {size(nbytes)}" for name, nbytes in found["files"].items())),
            ("converts to GGUF", "yes" if found["converts"] else "no"),
            ("tokenizer", " ".join(filter(None, (found["tokenizer"], found["pre_tokenizer"])))),
            ("notes", "; ".join(found["notes"])),
            ("why not", found["why_not"]),
        ]
    )


def show_adapter(found: dict[str, Any]) -> None:
    """The lint as a table; problems in red below it."""
    from edgekit.cli.output import table

    fits = {None: "not checked; pass --base", True: f"yes: {found['checked_against']}", False: "no"}[
        found["fits"]
    ]
    _facts(
        [
            ("adapter", f"{found['type']}, {found['parameters']:,} parameters"),
            ("base it names", found["base_it_names"] or "none"),
            ("fits", fits),
            ("replaces whole", ", ".join(found["saved_whole"])),
            ("notes", "; ".join(found["notes"])),
        ]
    )
    click.echo()
    rows = [
        [t["module"], str(t["count"]), "×".join(map(str, t["shape"])), str(t["rank"]), f"{t['scale']:g}"]
        for t in found["trains"]
    ]
    table(["trains", "modules", "shape", "rank", "scale"], rows)
    for problem in found["problems"]:
        click.echo(click.style("problem: ", fg="red") + problem)


def _short(value: object) -> str:
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= 90 else text[:87] + "…"


_SHOW: Final = {
    "bundle": _bundle, "gguf": _model, "onnx": _model, "adapter": show_adapter, "checkpoint": _checkpoint,
}  # fmt: skip
