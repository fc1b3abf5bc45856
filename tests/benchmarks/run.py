"""Benchmarks against the peer paths; see README.md: ``python -m tests.benchmarks.run [build] [decode] [serving] …``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tests.benchmarks import build, decode, memory
from tests.benchmarks import pipeline as files
from tests.benchmarks.common import Setting
from tests.benchmarks.measure import ChildError
from tests.benchmarks.report import HEADING, machine, put
from tests.benchmarks.serving import latency, loading, pipeline, records, sampling

SERVING = {
    "records": records.run,
    "records-large": records.run_large,
    "sampling": sampling.run,
    "latency": latency.run,
    "pipeline": pipeline.run,
    "loading": loading.run,
}
BENCHMARKS = {"build": build.run, "decode": decode.run, "memory": memory.run, "files": files.run, **SERVING}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("which", nargs=-1, type=click.Choice([*BENCHMARKS, "serving"]))
@click.option("--size", type=click.Choice(["1b", "tiny"]), default="1b", show_default=True, help="Model.")
@click.option(
    "--runs", type=click.IntRange(1), default=3, show_default=True, help="Rounds of builds and of records."
)
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("build/bench"), show_default=True,
    help="Models, the peers and results; models and peers are kept for the next run.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="For every side.  [default: physical cores]")
@click.option(
    "--markdown", type=click.Path(path_type=Path), help="Also put the section Results into this file."
)
def main(
    which: tuple[str, ...], size: str, runs: int, work: Path, threads: int | None, markdown: Path | None
) -> None:
    """Measure edgekit and its peers side by side, and print markdown tables. ``serving`` means all of its parts."""
    from edgekit.profiles.cpu import usable_cores

    work.mkdir(parents=True, exist_ok=True)
    setting = Setting(work.resolve(), size, runs, threads or usable_cores())
    wanted = {*which, *(SERVING if "serving" in which else ())}
    chosen = [name for name in BENCHMARKS if not wanted or name in wanted]
    sections = [HEADING, machine(setting.threads)]
    print("\n\n".join(sections), flush=True)
    try:
        for name in chosen:
            sections.append(BENCHMARKS[name](setting))
            print(f"\n{sections[-1]}", flush=True)
    except ChildError as error:
        sys.exit(str(error))
    if markdown:
        put(markdown, "\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
