"""``edgekit extract``: the fields of many records, from files into a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgekit.pipeline import Job, Summary

PATH = click.Path(path_type=Path)


@click.command(
    epilog="Example: edgekit extract dist/restaurant-q8_0 bookings.jsonl -o fields.jsonl --review doubtful.jsonl "
    "--min-confidence 0.9"
)
@click.argument("bundle", type=PATH)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT…")
@click.option("-o", "--out", required=True, type=PATH, help="The output; its state lies beside it.")
@click.option(
    "--format", type=click.Choice(["jsonl", "csv", "parquet", "sqlite"]), help="As OUT's name says."
)
@click.option("--review", type=PATH, help="Write doubtful and failed records here, for edgekit review.")
@click.option("--min-confidence", type=click.FloatRange(0, 1), help="Review records with a field below this.")
@click.option(
    "--text-field", default="text", show_default=True, metavar="NAME", help="Field or column of the text."
)
@click.option("--id-field", metavar="NAME", help="Field of the id; by default id, else file and line.")
@click.option(
    "--input-format",
    type=click.Choice(["jsonl", "csv", "tsv", "lines", "parquet"]),
    help="As INPUT's name says.",
)
@click.option("--delimiter", default=",", show_default=True, metavar="CHAR", help="Between a CSV's columns.")
@click.option("--schema", "schema_file", type=PATH, help="A JSON schema; the bundle's own by default.")
@click.option(
    "--prompt", metavar="TEMPLATE", help="A template with {text}, or @FILE; the bundle's own by default."
)
@click.option(
    "--max-errors", type=click.IntRange(min=0), metavar="N", help="Stop once more than N records failed."
)
@click.option(
    "--sync-every",
    default="2s",
    show_default=True,
    metavar="N|SECONDSs",
    help="Make results durable this often.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Of one answer; 512 by default.")
@click.option("--ctx", "n_ctx", type=click.IntRange(min=1), help="Context in tokens.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0 takes the physical cores.")
@click.option("--parallel", "n_parallel", type=click.IntRange(min=1), help="Records computed at once.")
@click.option(
    "--kv-type",
    type=click.Choice(["f16", "q8_0", "f32"]),
    help="How the KV cache is kept; q8_0 takes half the memory.",
)
@click.option("--verify", is_flag=True, help="Check the artifact's SHA-256 before it is loaded.")
@click.option(
    "--restart", "--force", is_flag=True, help="Begin anew; what OUT and its state hold is replaced."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(as_json: bool, **options: Any) -> None:
    """Extract the fields of every record in INPUT… with BUNDLE, into a file.

    INPUT is JSONL, CSV, TSV, Parquet, a text file with a record per line, a folder of .txt files, or - for standard
    input. Run the same command again after an interruption: it goes on where it stopped, and the output is the
    same, byte by byte, as if nothing had happened. A record that fails becomes an error record, and the run goes on.
    """
    from edgekit.cli.meter import meter
    from edgekit.cli.output import print_json
    from edgekit.pipeline import extract_files

    job = _job(options)
    with meter(silent=as_json) as watcher:
        try:
            summary = extract_files(job, stdin=sys.stdin.buffer, watcher=watcher)
        except KeyboardInterrupt:
            click.echo("\nstopped: run the same command again to go on", err=True)
            raise
    if as_json:
        print_json(as_document(summary))
    else:
        _show(summary, job)


def _job(options: dict[str, Any]) -> Job:
    from edgekit.files import read_json, read_text
    from edgekit.pipeline import Interval, Job
    from edgekit.pipeline.readers import Fields

    schema_file: Path | None = options.pop("schema_file")
    prompt: str | None = options.pop("prompt")
    delimiter = options.pop("delimiter").replace("\\t", "\t")
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise click.UsageError("--delimiter takes one character")
    text, name = options.pop("text_field"), options.pop("id_field")
    if text == name or (name is None and text == "id"):
        raise click.UsageError("the text and the id can't be one field: name another --id-field")
    if prompt is not None and prompt.startswith("@"):
        prompt = read_text(Path(prompt[1:])).rstrip("\r\n")
    return Job(
        fields=Fields(text, name, delimiter),
        schema=None if schema_file is None else read_json(schema_file),
        prompt=prompt,
        sync=Interval.parse(options.pop("sync_every")),
        **options,
    )


def as_document(summary: Summary) -> dict[str, Any]:
    """The summary as docs/json.md has it."""
    return {
        "out": str(summary.out),
        "records": summary.records,
        "new": summary.new,
        "errors": summary.errors,
        "review": summary.review,
        "tokens": summary.tokens,
        "seconds": round(summary.seconds, 3),
        "records_per_second": round(summary.per_second, 1),
        "calibrated": summary.calibrated,
        "differ": summary.differ,
        "duplicate_ids": summary.duplicate_ids,
        "notes": list(summary.notes),
        "already_finished": summary.already_finished,
    }


def _show(summary: Summary, job: Job) -> None:
    from edgekit.cli.output import printable

    failed = sum(summary.errors.values())
    if summary.already_finished:
        click.echo(printable(f"{summary.out}: finished already, {summary.records:,} records; nothing to do"))
    else:
        before = summary.records - summary.new
        resumed = f" ({before:,} of them before)" if before else ""
        click.echo(printable(f"{summary.out}: {summary.records:,} records{resumed}"))
        if summary.new:
            click.echo(f"{summary.new:,} in {summary.seconds:,.1f} s, {summary.per_second:,.1f} records/s")
    if failed:
        codes = ", ".join(f"{code} {count:,}" for code, count in summary.errors.items())
        click.echo(f"failed: {failed:,} ({codes})")
    if summary.review and job.review is None:
        click.echo(f"to review: {summary.review:,}; --review FILE would have listed them")
    elif summary.review:
        click.echo(
            printable(f"to review: {summary.review:,}; look at them with: edgekit review {job.review}")
        )
    if job.min_confidence is not None and not summary.calibrated:
        click.echo(
            "the confidences aren't calibrated: they only rank; edgekit calibrate-confidence fits them to labels"
        )
    if summary.duplicate_ids:
        click.echo(
            printable(
                f"ids that came more than once: {summary.duplicate_ids:,}, first {summary.first_duplicate!r}"
            )
        )
    if summary.differ:
        click.echo(
            f"{summary.differ:,} records came out differently when they were computed again; what was written stays"
        )
    for note in summary.notes:
        click.echo(f"note: {note}")
