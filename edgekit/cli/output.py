"""What commands print with: tables, sizes, progress. Tables go to standard output, progress to standard error."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from edgekit.progress import Progress as Listener

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe."""


def printable(text: str) -> str:
    """Text from elsewhere without the control characters that would steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    red: Collection[int] = (),
) -> None:
    """Print a table, some rows in red; all columns but the first are aligned to the right when they hold figures."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(
        title=title,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
        show_header=any(columns),
    )
    for index, column in enumerate(columns):
        figures = index > 0 and all(row[index][:1].isdigit() or row[index] in {"", "-"} for row in rows)
        drawn.add_column(column, justify="right" if figures else "left", overflow="fold")
    for index, line in enumerate(rows):
        drawn.add_row(*map(printable, line), style="red" if index in red else None)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(drawn)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


class Bars(Listener):
    """Draws a bar for every stage: tensor, share done, speed and time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def stage(self, name: str, total: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=self._progress.tasks[self._task].total)
        counts_weights = total > 1_000_000
        self._task = self._progress.add_task(
            name, total=total * 4 if counts_weights else total, what="", weights=counts_weights
        )
        self._scale = 4 if counts_weights else 1

    def advance(self, what: str, amount: int) -> None:
        assert self._task is not None
        self._progress.update(self._task, advance=amount * self._scale, what=what)

    def note(self, text: str) -> None:
        self._progress.console.print(f"note: {printable(text)}", markup=False, highlight=False)


@contextmanager
def bars() -> Iterator[Listener]:
    """Progress bars on a terminal; on anything else one line per stage."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Speed(TransferSpeedColumn):
        """Bytes a second of weights, pieces a second of what is counted."""

        def render(self, task: Task) -> Text:
            if task.fields["weights"]:
                return super().render(task)
            return Text(f"{task.speed:.0f}/s" if task.speed else "")

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        Speed(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bars(progress)


class Lines(Listener):
    """For logs: says when a stage begins, and every ten seconds how far it is."""

    def __init__(self) -> None:
        self._name, self._total, self._done, self._said = "", 1, 0, 0.0

    def stage(self, name: str, total: int) -> None:
        self._name, self._total, self._done, self._said = name, max(1, total), 0, time.monotonic()
        click.echo(f"{name} …", err=True)

    def advance(self, what: str, amount: int) -> None:
        self._done += amount
        if time.monotonic() - self._said > 10:
            self._said = time.monotonic()
            click.echo(f"{self._name}: {100 * self._done // self._total}% ({what})", err=True)

    def note(self, text: str) -> None:
        click.echo(f"note: {printable(text)}", err=True)
