"""``edgekit bench``: how fast a bundle runs here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgekit.bench import Report, Row, Spread

EPILOG = """\b
Examples:
  edgekit bench dist/restaurant-q4_k_m
  edgekit bench model.gguf --threads 1,2,4 --concurrency 1,4,8
  edgekit bench model.gguf --threads auto       find the fastest count in 5 s, and keep it for later
"""


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between them."""

    name = "N,N,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isascii() and part.isdigit() and 0 < int(part) <= 512 for part in parts):
            self.fail(f"{value!r} is not a list of numbers from 1 to 512 such as 1,2,4", param, ctx)
        return tuple(dict.fromkeys(map(int, parts)))


class Threads(Numbers):
    """The same, or auto."""

    name = "auto|N,N,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        return () if value == "auto" else super().convert(value, param, ctx)


@click.command("bench", epilog=EPILOG)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--prompt-tokens", type=click.IntRange(1, 1 << 20), default=512, show_default=True)
@click.option("--gen-tokens", type=click.IntRange(1, 1 << 20), default=128, show_default=True)
@click.option("--threads", type=Threads(), help="Counts to measure, or auto; by default the picked one.")
@click.option("--concurrency", type=Numbers(), default="1", show_default=True, help="Answers made at once.")
@click.option("--repetitions", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option("--gpu-layers", type=click.IntRange(min=0), help="Layers on GPUs; by default as picked.")
@click.option("--kv-type", type=click.Choice(["f16", "q8_0", "f32"]), default="f16", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    bundle: Path,
    prompt_tokens: int,
    gen_tokens: int,
    threads: tuple[int, ...] | None,
    concurrency: tuple[int, ...],
    repetitions: int,
    gpu_layers: int | None,
    kv_type: str,
    as_json: bool,
) -> None:
    """Measure BUNDLE (a folder, or a .gguf file) on this machine, beside what was predicted for it.

    pp and tg are llama-bench's: a prompt, and an answer, each in an empty context. Every setting runs in a process
    of its own; a first repetition warms up and doesn't count. The picked setting's result is kept, and corrects
    later predictions for this machine. Measure while nothing else runs.
    """
    from edgekit.bench import Plan, bench
    from edgekit.cli.output import bars, print_json

    plan = Plan(
        path=bundle,
        prompt_tokens=prompt_tokens,
        gen_tokens=gen_tokens,
        threads=threads or (),
        concurrency=concurrency,
        repetitions=repetitions,
        tune=threads == (),
        n_gpu_layers=gpu_layers,
        kv_type=kv_type,
    )
    if as_json:
        print_json(document(bench(plan), plan.prompt_tokens, plan.gen_tokens))
        return
    with bars() as progress:
        report = bench(plan, progress)
    _show(report, prompt_tokens, gen_tokens)


def document(report: Report, prompt_tokens: int, gen_tokens: int) -> dict[str, Any]:
    """Everything as plain values."""
    from dataclasses import asdict

    from edgekit.choosing import document

    return {
        "model": report.artifact.path,
        "quantization": report.artifact.quantization,
        "prompt_tokens": prompt_tokens,
        "gen_tokens": gen_tokens,
        "processor": report.hardware.cpu.name,
        "bandwidth": report.hardware.memory.bandwidth,
        "choice": document(report.choice),
        "tuned": {str(count): rate for count, rate in report.tuned.items()},
        "rows": [asdict(row) for row in report.rows],
        "busy": report.busy,
        "kept": report.kept,
    }


def _show(report: Report, prompt_tokens: int, gen_tokens: int) -> None:
    from edgekit.bench import BUSY
    from edgekit.cli.hardware_table import summary
    from edgekit.cli.output import printable, table
    from edgekit.units import size

    shape = report.artifact.shape
    name = Path(report.artifact.path).parent.name + "/" + Path(report.artifact.path).name
    params = f"{shape.token_weights / 1e6:,.1f} M weights a token"
    click.echo(printable(f"{name}: {report.artifact.quantization}, {size(shape.file_bytes)}, {params}"))
    click.echo(printable(summary(report.choice)))
    if report.tuned:
        tried = ", ".join(f"{count}: {rate:,.1f}" for count, rate in sorted(report.tuned.items()))
        click.echo(f"tuned by decode tok/s, by threads: {tried}")
    click.echo()
    together = any(row.concurrency > 1 for row in report.rows)
    columns = ["threads", *(["at once"] if together else []), f"pp{prompt_tokens} tok/s", f"tg{gen_tokens} tok/s",
               "first token", "load", "peak RSS", "bandwidth"]  # fmt: skip
    table(columns, [_cells(row, together) for row in report.rows])
    if together:
        click.echo("With several at once: the tokens of all over the whole time, prompts included.")
    _show_predicted(report)
    if report.busy >= BUSY:
        click.echo(
            f"\nnot kept: other programs used {report.busy:.0%} of the processor; measure again without them"
        )


def _cells(row: Row, together: bool) -> list[str]:
    from edgekit.units import size

    return [
        str(row.threads),
        *([str(row.concurrency)] if together else []),
        _spread(row.prompt),
        _spread(row.decode),
        f"{row.first_token.median * 1000:,.1f} ms",
        f"{row.load_seconds * 1000:,.0f} ms",
        "-" if row.peak_rss is None else size(row.peak_rss),
        "-" if row.bandwidth_share is None else f"{row.bandwidth_share:.0%}",
    ]


def _spread(spread: Spread) -> str:
    return f"{spread.median:,.1f} ({spread.least:,.1f}–{spread.most:,.1f})"


def _show_predicted(report: Report) -> None:
    from edgekit.cli.output import table
    from edgekit.units import size

    row, choice = report.picked, report.choice
    if row is None:
        click.echo(
            f"\nThe picked setting, {choice.threads} threads and one answer at a time, wasn't measured."
        )
        return
    pairs = [
        ("prompt tok/s", choice.prompt_tps, row.prompt.median, "{:,.1f}".format),
        ("decode tok/s", choice.decode_tps, row.decode.median, "{:,.1f}".format),
        ("memory", choice.memory.peak, row.peak_rss, size),
    ]
    rows = [
        [what, form(predicted), form(measured), f"{measured / predicted - 1:+.0%}"]
        for what, predicted, measured, form in pairs
        if predicted and measured
    ]
    click.echo()
    table(["", "predicted", "measured", "difference"], rows)
    if report.kept:
        click.echo("\nkept: later predictions for such models on this machine are corrected by it")
