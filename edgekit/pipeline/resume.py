"""Whether a run may go on from a state: the same task, the same records so far, the same files."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from edgekit.errors import InputError
from edgekit.pipeline.disk import tail_digest
from edgekit.pipeline.job import Job
from edgekit.pipeline.record import Record
from edgekit.pipeline.state import VERSION, FileMark, State, read_state, state_path

if TYPE_CHECKING:
    from hashlib import _Hash

RESTART: Final = "run with --restart to begin anew, which replaces the output"


def part_of(out: Path, kind: str) -> Path:
    """The file that grows during the run: the output itself, or lines that it is made from at the end."""
    return out if kind in {"jsonl", "csv"} else out.with_name(f"{out.name}.edgekit-part.jsonl")


def state_of(job: Job, settings: dict[str, str]) -> State:
    """The state to go on from, a new one at the first run. ``InputError`` where what is there isn't of this run."""
    fresh = State(VERSION, settings, epoch=0)
    if job.restart:
        return fresh
    state = read_state(job.out)
    if state is None:
        for path in (job.out, job.review):
            if path is not None and path.exists() and path.stat().st_size:
                raise InputError(
                    "exists already, and wasn't begun by this command",
                    path=path,
                    found=f"no {state_path(job.out).name} that tells how it was made",
                    next_step="choose another name, or --restart to replace it",
                )
        return fresh
    if not state.done:
        return fresh
    changed = [name for name, value in settings.items() if state.settings.get(name) != value]
    if changed:
        name = changed[0]
        others = f" (and {', '.join(changed[1:])})" if changed[1:] else ""
        raise InputError(
            f"{state.done:,} records are written, but {name}{others} changed since",
            path=job.out,
            found=settings[name],
            expected=state.settings.get(name, "nothing"),
            next_step=f"run it as before to go on, or {RESTART}",
        )
    return state


def check_file(path: Path, mark: FileMark) -> None:
    """``InputError`` unless the file begins with the durable bytes that the state speaks of."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise InputError(
            "is gone, but its state says how far it is",
            path=path,
            expected=f"{mark.bytes:,} bytes",
            next_step=f"put it back, or {RESTART}",
        ) from error
    try:
        size = os.fstat(descriptor).st_size
        if size < mark.bytes or tail_digest(descriptor, mark.bytes) != mark.tail:
            raise InputError(
                "was changed since it was written",
                path=path,
                found=f"{size:,} bytes" if size < mark.bytes else f"other text before byte {mark.bytes:,}",
                expected=f"the {mark.bytes:,} bytes that were written",
                next_step=f"put it back as it was, or {RESTART}",
            )
    finally:
        os.close(descriptor)


class Rewind:
    """Reads the records that are done once more and checks that they are the same; the stream goes on after them."""

    def __init__(self, records: Iterator[Record], state: State, names: tuple[str, ...]) -> None:
        self._state, self._names = state, names
        self.digest: _Hash = hashlib.sha256()
        self.source = 0
        self.given: list[str] = []
        since = state.done % state.epoch if state.epoch else 0
        recent: deque[Record] = deque(maxlen=since)
        for n in range(state.done):
            record = next(records, None)
            if record is None:
                self._refuse(self.source, f"{n:,} records", f"at least {state.done:,}")
            self._boundary(n, record.source)
            self.digest.update(record.identity())
            recent.append(record)
        if state.done and self.digest.hexdigest() != state.digest:
            self._refuse(self.source, "other texts or ids among the records that are done", "the same ones")
        self.again = list(recent)
        """The records of the epoch that is under way, which are computed again."""

    def _boundary(self, n: int, source: int) -> None:
        """At the begin of another input, all that came before is what it was."""
        marks = self._state.inputs
        while self.source < len(marks) - 1 and (source > self.source or n >= marks[self.source].records):
            mark = marks[self.source]
            if source == self.source:
                self._refuse(
                    source, f"more than {mark.records:,} records", "only the last input may have grown"
                )
            if n != mark.records or self.digest.hexdigest() != mark.digest:
                self._refuse(
                    self.source, "other texts, ids or a different number of records", "the same ones"
                )
            self.source += 1
        if source > self.source:
            self._refuse(self.source, "fewer records", "the same ones")

    def _refuse(self, source: int, found: str, expected: str) -> NoReturn:
        raise InputError(
            f"the input changed: {self._state.done:,} records of it are done already",
            path=self._names[min(source, len(self._names) - 1)],
            found=found,
            expected=expected,
            next_step=f"give the same input as before to go on, or {RESTART}",
        )
