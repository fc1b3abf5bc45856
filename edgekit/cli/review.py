"""``edgekit review``: doubtful records, one by one, with a person's decisions kept as labelled data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.pipeline.review import Labels
    from edgekit.pipeline.rows import Doubt, Header

HELP = """\
  Enter, a       the values are right: keep them
  FIELD=VALUE    set a field, such as date=tomorrow; then Enter keeps the record
  n FIELD        set a field to null
  s              skip: ask again next time
  b              back to the record before
  q              stop here; what was decided is kept
"""


@click.command(epilog="Example: edgekit review doubtful.jsonl -o labelled.jsonl")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="The labelled data; FILE.labelled.jsonl by default."
)
@click.option("--all", "everything", is_flag=True, help="Step through decided records, too.")
def command(file: Path, out: Path | None, everything: bool) -> None:
    """Step through the doubtful records in FILE, which edgekit extract --review wrote.

    Shows each text with the values found in it and the doubtful fields marked, and takes corrections, a line each.
    Every decision is written at once as {"id", "text", "expected"}, ready for the next fine-tune; run the command
    again to go on where you stopped.

    \b
    Enter or a     the values are right: keep them
    FIELD=VALUE    set a field; then Enter keeps the record
    n FIELD        set a field to null
    s, b, q        skip (ask again next time), back, quit
    """
    from edgekit.errors import InputError
    from edgekit.pipeline.review import open_labels, read_review
    from edgekit.runtimes.schema import check_schema

    header, doubts = read_review(file)
    check_schema(header.schema)  # the file may be from anywhere: no reference out of it, no bomb
    out = out or file.with_name(f"{file.stem}.labelled.jsonl")
    if out.exists() and out.samefile(file):
        raise InputError(
            "the review file itself would be overwritten", path=out, next_step="choose another -o"
        )
    with open_labels(out) as labels:
        open_ones = [doubt for doubt in doubts if doubt.text and (everything or labels.of(doubt) is None)]
        unreadable = sum(not doubt.text for doubt in doubts)
        if unreadable:
            click.echo(f"records without a text that could be read: {unreadable:,}; mend them in the input")
        before = len(labels)
        _Session(header, open_ones, labels).run()
        left = sum(labels.of(doubt) is None for doubt in open_ones)
        click.echo(f"{len(labels) - before:,} decided, {left:,} left; labelled data: {out}")


class _Session:
    def __init__(self, header: Header, doubts: list[Doubt], labels: Labels) -> None:
        from rich.console import Console

        from edgekit.cli.output import PIPE_WIDTH

        self._header, self._doubts, self._labels = header, doubts, labels
        self._console: Console = Console(highlight=False, markup=False)
        if not self._console.is_terminal:
            self._console.width = PIPE_WIDTH

    def run(self) -> None:
        at = 0
        while at < len(self._doubts):
            step = self._ask(at)
            if step is None:
                return
            if at + step < 0:
                click.echo("this is the first one")
            at = max(0, at + step)

    def _ask(self, at: int) -> int | None:
        """Ask about a record until it is decided; how many records to move, None to stop."""
        from edgekit.errors import InputError
        from edgekit.pipeline.review import blank

        doubt = self._doubts[at]
        label = self._labels.of(doubt)
        data = doubt.data if label is None else label.expected
        if data is None:
            data = blank(self._header.schema)
        edited = doubt.data is not None or label is not None
        self._show(at, data)
        while True:
            answer = _line()
            if answer is None or answer == "q":
                return None
            try:
                step, data, edited = self._answer(doubt, data, answer, edited)
            except InputError as error:
                click.echo(f"{error}")
                continue
            if step is not None:
                if answer in {"", "a"}:
                    self._labels.put(doubt, data)  # a disk that refuses this ends the session
                return step

    def _answer(self, doubt: Doubt, data: Any, answer: str, edited: bool) -> tuple[int | None, Any, bool]:
        """What a line does: how far to move (None stays), the data, and whether there is any to keep."""
        from edgekit.errors import InputError
        from edgekit.pipeline.review import check, with_value

        schema = self._header.schema
        if answer in {"", "a"}:
            if not edited:
                raise InputError(
                    "the model gave no values to keep", next_step="set them, FIELD=VALUE, or skip with s"
                )
            return 1, check(data, schema), edited
        if answer in {"s", "b"}:
            return (1 if answer == "s" else -1), data, edited
        field, equals, value = answer.partition("=")
        if equals:
            data = with_value(data, field.strip(), value.strip(), schema)
        elif answer.startswith("n "):
            data = with_value(data, answer[2:].strip(), None, schema)
        else:
            click.echo(HELP, nl=False)
            return None, data, edited
        self._values(doubt, data)
        return None, data, True

    def _show(self, at: int, data: Any) -> None:
        from rich.text import Text

        from edgekit.cli.output import printable

        doubt = self._doubts[at]
        said = printable(f"{at + 1}/{len(self._doubts)}  {doubt.id}  ({'; '.join(doubt.reasons)})")
        self._console.print(Text(f"\n{said}", style="dim"))
        self._console.print(marked(doubt, data))
        if doubt.answer:
            self._console.print(Text(printable(f"the model began: {doubt.answer[:500]}"), style="dim"))
        self._values(doubt, data)

    def _values(self, doubt: Doubt, data: Any) -> None:
        from edgekit.cli.output import table

        rows = []
        for name, value in leaves(data):
            sure = doubt.confidence.get(name)
            mark = "?" if name in doubt.doubtful else ""
            rows.append(
                [
                    mark,
                    name or "value",
                    json.dumps(value, ensure_ascii=False),
                    "" if sure is None else f"{sure:.2f}",
                ]
            )
        table(["", "field", "value", "confidence"], rows)


def _line() -> str | None:
    """The next line that is typed or piped; None at the end of it or at Ctrl-C."""
    try:
        return str(click.prompt("", prompt_suffix="> ", default="", show_default=False)).strip()
    except click.Abort:
        click.echo()
        return None


def leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that isn't an object or a list with something in it, with its path."""
    if isinstance(data, dict) and data:
        for name, value in data.items():
            yield from leaves(value, f"{path}.{name}" if path else name)
    elif isinstance(data, list) and data:
        for index, value in enumerate(data):
            yield from leaves(value, f"{path}[{index}]")
    else:
        yield path, data


def marked(doubt: Doubt, data: Any) -> Any:
    """The text with every value that stands in it highlighted: doubtful ones in red, the others in green."""
    from rich.text import Text

    from edgekit.cli.output import printable

    text = Text(printable(doubt.text or ""))
    for name, value in leaves(data):
        shown = printable(value if isinstance(value, str) else json.dumps(value))
        if value is None or value is True or value is False or not shown:
            continue
        style = "bold red" if name in doubt.doubtful else "bold green"
        at = text.plain.find(shown)
        while at >= 0:
            text.stylize(style, at, at + len(shown))
            at = text.plain.find(shown, at + len(shown))
    return text
