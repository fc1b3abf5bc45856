"""The growing output with its review file and its state: data first, then the state that speaks of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgekit.answer import Extraction
from edgekit.pipeline import rows
from edgekit.pipeline.disk import AppendFile, Disk, disk_errors
from edgekit.pipeline.job import Job, Task
from edgekit.pipeline.record import Fault, Record
from edgekit.pipeline.resume import part_of
from edgekit.pipeline.state import FileMark, InputMark, State, write_state

if TYPE_CHECKING:
    from hashlib import _Hash

_SURROGATE = Fault("invalid", "the answer holds half of a surrogate pair, which is no text")


class Output:
    """Writes results in order. ``state`` is what was durable last; ``sync`` moves it on."""

    def __init__(
        self, disk: Disk, job: Job, task: Task, state: State, digest: _Hash, names: tuple[str, ...]
    ) -> None:
        """Cut back to what is durable; the caller checked that it may be."""
        self.state = state
        self._disk, self._job, self._digest, self._names = disk, job, digest, names
        self._source = len(state.inputs) - 1
        self._csv = rows.CsvRows(task.schema) if job.kind == "csv" else None
        self._began = self._synced_at = time.monotonic()
        self._synced, self._before = state.done, state.seconds
        self._broken = False
        self._files: list[AppendFile] = []
        with self._writing():
            if not state.done:
                write_state(disk, job.out, state)
            self._out = self._open(part_of(job.out, job.kind), state.out)
            self._review = None if job.review is None else self._open(job.review, state.review)
            for folder in {file.parent for file in (job.out, job.review) if file is not None}:
                disk.sync_folder(folder)
            if not state.done:
                if self._csv is not None:
                    self._out.append(self._csv.header())
                if self._review is not None:
                    self._review.append(rows.review_header(task.name, task.schema, job.min_confidence))
                state.epoch_start = self._out.size
        self.written = self._written()
        self.differ = 0

    def _open(self, path: object, mark: FileMark) -> AppendFile:
        from pathlib import Path

        file = AppendFile(self._disk, Path(str(path)), mark.bytes)
        self._files.append(file)
        return file

    def _written(self) -> deque[bytes]:
        """The records of the epoch that is under way, as they were written."""
        data = self._out.read(self.state.epoch_start, self._out.size) if self.state.done else b""
        return deque(rows.split_rows(data, quoted=self._csv is not None))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with disk_errors(self._job.out):
                yield
        except BaseException:
            self._broken = True
            raise

    def compare(self, record: Record, extraction: Extraction) -> None:
        """A record that is written already and was computed again: what is written stays."""
        if self._line(record, extraction, rows.fault_of(record, extraction))[0] != self.written.popleft():
            self.differ += 1

    def write(self, record: Record, extraction: Extraction) -> Fault | None:
        """Append a result; what was wrong with it."""
        state = self.state
        fault = rows.fault_of(record, extraction)
        line, fault = self._line(record, extraction, fault)
        if record.source != self._source:
            self._next_input(record.source)
        if state.epoch and state.done % state.epoch == 0:
            state.epoch_start = self._out.size
        review = self._review if fault is not None or extraction.needs_review else None
        if review is not None:
            doubt = rows.review_line(record, extraction, fault, self._job.min_confidence)
        with self._writing():
            self._out.append(line)
            if review is not None:
                review.append(doubt)
        self._digest.update(record.identity())
        state.done += 1
        state.tokens += extraction.tokens
        if fault is not None:
            state.errors[fault.code] = state.errors.get(fault.code, 0) + 1
        else:
            state.calibrated = state.calibrated and extraction.calibrated
        if fault is not None or extraction.needs_review:
            state.reviewed += 1
        return fault

    def _line(
        self, record: Record, extraction: Extraction, fault: Fault | None
    ) -> tuple[bytes, Fault | None]:
        try:
            line = rows.json_line(record, extraction, fault)
        except UnicodeEncodeError:
            fault = _SURROGATE
            line = rows.json_line(record, extraction, fault)
        return (line if self._csv is None else self._csv.row(line)), fault

    def _next_input(self, source: int) -> None:
        """Close the marks of the inputs before, which may hold no record."""
        self._mark_input()
        for number in range(self._source + 1, source + 1):
            self.state.inputs.append(
                InputMark(self._names[number], self.state.done, self._digest.hexdigest())
            )
        self._source = source

    def _mark_input(self) -> None:
        if self.state.inputs:
            mark = self.state.inputs[-1]
            mark.records, mark.digest = self.state.done, self._digest.hexdigest()

    def due(self, now: float) -> bool:
        """Whether it is time to ``sync``."""
        every = self._job.sync
        if every.records is not None:
            return self.state.done - self._synced >= every.records
        return now - self._synced_at >= (every.seconds or 0.0)

    def sync(self, *, finished: bool = False) -> None:
        """Make all that was written durable, then say so in the state."""
        state = self.state
        with self._writing():
            state.out = FileMark(self._out.size, self._out.sync())
            if self._review is not None:
                state.review = FileMark(self._review.size, self._review.sync())
            state.digest = self._digest.hexdigest()
            self._mark_input()
            state.seconds = self._before + time.monotonic() - self._began
            state.finished = finished
            write_state(self._disk, self._job.out, state)
        self._synced, self._synced_at = state.done, time.monotonic()

    def rescue(self) -> None:
        """After an interruption: save what can be saved, unless the disk is what failed."""
        if not self._broken:
            self.sync()

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
