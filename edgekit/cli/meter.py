"""How a run of many records is shown: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from edgekit.pipeline import Watcher
from edgekit.pipeline.tally import Tally

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY = 10.0
"""Seconds between two lines in a log."""


@contextmanager
def meter(*, silent: bool = False) -> Iterator[Watcher]:
    """A watcher that draws on standard error; ``silent`` draws nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    if silent:
        yield Watcher()
    elif not console.is_terminal:
        yield LogLines()
    else:
        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=console, transient=True) as progress:
            yield Bar(progress)


class _Words(Watcher):
    """A run's figures in words; the time left follows from the share of the input that this run has read."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._from, self._first = 0.0, 0

    def words(self, tally: Tally, share: float | None) -> str:
        """``1,234 records, 56.7 records/s, 2 failed, 3 to review, 0:41 left``."""
        now = time.monotonic()
        if self._began is None:
            self._began, self._from, self._first = now, share or 0.0, tally.done
        seconds = now - self._began
        parts = [f"{tally.done:,} records"]
        if seconds > 0:
            parts.append(f"{(tally.done - self._first) / seconds:,.1f} records/s")
        parts += [f"{tally.failed:,} failed", f"{tally.reviewed:,} to review"]
        read = (share or 0.0) - self._from
        if share is not None and read > 0 and seconds > 1:
            parts.append(f"{duration((1 - share) / read * seconds)} left")
        return ", ".join(parts)


class Bar(_Words):
    """One bar; where the input's size isn't known it only moves."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def update(self, tally: Tally, share: float | None) -> None:
        words = self.words(tally, share)
        if share is None:
            self._progress.update(self._task, description=words)
        else:
            self._progress.update(self._task, description=words, completed=share, total=1.0)

    def stage(self, text: str) -> None:
        self._progress.update(self._task, description=f"{text} …")


class LogLines(_Words):
    """For logs and pipes."""

    def __init__(self) -> None:
        super().__init__()
        self._said = time.monotonic()

    def update(self, tally: Tally, share: float | None) -> None:
        words = self.words(tally, share)
        if time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            click.echo(words, err=True)

    def stage(self, text: str) -> None:
        click.echo(f"{text} …", err=True)


def duration(seconds: float) -> str:
    """0:41, 12:05 or 3:20:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
