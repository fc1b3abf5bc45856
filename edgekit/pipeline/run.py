"""The pipeline: records in, results out, in order, durable at intervals, resumable from any interruption."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from itertools import chain
from typing import Any, BinaryIO, Final, Protocol, Unpack

from edgekit.answer import AnswerOptions, Extraction
from edgekit.errors import InputError
from edgekit.pipeline.disk import Disk, disk_errors, locked
from edgekit.pipeline.job import Job, Task, settings_of, task_of
from edgekit.pipeline.output import Output
from edgekit.pipeline.record import Record
from edgekit.pipeline.resume import RESTART, Rewind, check_file, part_of, state_of
from edgekit.pipeline.sources import Inputs, SeenIds
from edgekit.pipeline.state import State
from edgekit.pipeline.tables import assemble
from edgekit.pipeline.tally import Summary, Tally, Watcher

TOLD: Final = 0.1
"""Seconds between two words to the watcher."""


class Extractor(Protocol):
    """What a run needs of a model; results come in the order of the texts, and depend on those of their epoch only."""

    epoch: int
    """Records of which the answers depend on each other."""

    @property
    def batching(self) -> str:
        """What else decides which records are computed together."""
        ...

    def extract_many(
        self,
        texts: Iterable[str],
        schema: Mapping[str, Any] | None = None,
        prompt: str | None = None,
        *,
        min_confidence: float | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Iterator[Extraction]: ...


Loader = Callable[[], AbstractContextManager[Extractor]]


def extract_files(
    job: Job,
    *,
    load: Loader | None = None,
    stdin: BinaryIO | None = None,
    watcher: Watcher | None = None,
    disk: Disk | None = None,
) -> Summary:
    """Run a job, or go on with it where an earlier run was interrupted.

    ``load`` opens the model, by default ``edgekit.load`` with the job's options; it isn't called where there is
    nothing left to do. Raises ``InputError`` for what can't be read, written or resumed; what was written until
    then is kept, and the same job goes on after it.
    """
    run = _Run(job, load or _loader(job), stdin, watcher or Watcher(), disk or Disk())
    with ExitStack() as stack:
        for path in (job.out, job.review):
            if path is not None:
                with disk_errors(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(path))
        return run.go()


def _loader(job: Job) -> Loader:
    def load() -> AbstractContextManager[Extractor]:
        from edgekit import model

        options: dict[str, Any] = {"n_ctx": job.n_ctx, "threads": job.threads, "verify": job.verify}
        for name in ("n_parallel", "kv_type"):
            if (value := getattr(job, name)) is not None:
                options[name] = value
        return model.load(job.bundle, **options)

    return load


class _Run:
    def __init__(self, job: Job, load: Loader, stdin: BinaryIO | None, watcher: Watcher, disk: Disk) -> None:
        job.check()
        if job.kind == "parquet":
            from edgekit.pipeline.parquet import pyarrow

            pyarrow()  # before hours of work
        self._job, self._load, self._watcher, self._disk = job, load, watcher, disk
        self._task: Task = task_of(job)
        self._settings = settings_of(job, self._task)
        self._inputs = Inputs(job.inputs, job.fields, job.input_format, stdin)
        self._ids = SeenIds()
        self._began = time.monotonic()

    def _records(self) -> Iterator[Record]:
        for record in self._inputs:
            if record.named:
                self._ids.add(record.id)
            yield record

    def go(self) -> Summary:
        state = state_of(self._job, self._settings)
        records = self._records()
        if state.done:
            self._watcher.stage(f"checking the {state.done:,} records that are done")
        rewind = Rewind(records, state, self._inputs.names)
        before = state.done
        first = next(records, None)
        self._check_files(state)
        if state.done and state.finished and first is None:
            if self._made_at_the_end:
                self._disk.remove(part_of(self._job.out, self._job.kind))
            return self._summary(state, before, 0, already=True)
        self._check_errors(state)
        rest = () if first is None else chain([first], records)
        with ExitStack() as stack:
            model = None if first is None else stack.enter_context(self._model(state))
            output = Output(self._disk, self._job, self._task, state, rewind.digest, self._inputs.names)
            stack.callback(output.close)
            try:
                if model is not None:
                    self._drive(model, output, rewind.again, rest)
                output.sync(finished=not self._made_at_the_end)
            except BaseException:
                output.rescue()
                raise
            if self._made_at_the_end:
                self._assemble(output)
        return self._summary(state, before, output.differ, already=False)

    @property
    def _made_at_the_end(self) -> bool:
        return self._job.kind in {"sqlite", "parquet"}

    def _check_files(self, state: State) -> None:
        """Refuse files that aren't what the state says."""
        if not state.done:
            return
        part = part_of(self._job.out, self._job.kind)
        if self._job.review is not None:
            check_file(self._job.review, state.review)
        if not (self._made_at_the_end and state.finished):
            check_file(part, state.out)
        elif not self._job.out.exists():
            raise InputError(
                "is gone, but its state says that it is finished", path=self._job.out, next_step=RESTART
            )

    def _check_errors(self, state: State) -> None:
        most, failed = self._job.max_errors, sum(state.errors.values())
        if most is not None and failed > most:
            raise InputError(
                f"failed records: {failed:,}, more than --max-errors {most:,}",
                path=self._job.out,
                found=", ".join(f"{code} {count:,}" for code, count in sorted(state.errors.items())),
                next_step="look at the records with an error; then run again with a higher --max-errors or without it",
            )

    def _model(self, state: State) -> AbstractContextManager[Extractor]:
        if state.finished and self._made_at_the_end:
            raise InputError(
                f"{state.done:,} records are in a finished file, and the input has grown",
                path=self._job.out,
                found=f"--format {self._job.kind}, which is made at the end",
                next_step=f"extract into .jsonl or .csv, which can grow with their input; or {RESTART}",
            )
        self._watcher.stage("loading the model")
        return self._load()

    def _drive(self, model: Extractor, output: Output, again: list[Record], rest: Iterable[Record]) -> None:
        job, state, watcher = self._job, output.state, self._watcher
        self._check_batching(state, model)
        tally = Tally(errors=state.errors)
        waiting: deque[Record] = deque()
        options: AnswerOptions = {} if job.max_tokens is None else {"max_tokens": job.max_tokens}
        texts = _texts(chain(again, rest), waiting)
        results = model.extract_many(
            texts,
            self._task.schema,
            self._task.prompt,
            min_confidence=job.min_confidence,
            **options,
        )
        told, repeat = 0.0, len(again)
        with closing(results) if hasattr(results, "close") else ExitStack():  # type: ignore[type-var]
            for result in results:
                record = waiting.popleft()
                if repeat:
                    repeat -= 1
                    output.compare(record, result)
                    continue
                if output.write(record, result) is not None and job.max_errors is not None:
                    self._check_errors(state)
                now = time.monotonic()
                if output.due(now):
                    output.sync()
                if now - told >= TOLD:
                    told = now
                    tally.done, tally.reviewed, tally.tokens = state.done, state.reviewed, state.tokens
                    watcher.update(tally, self._inputs.share)
        if waiting or next(texts, None) is not None:
            raise AssertionError("a text got no result")  # never an output that only looks whole

    def _check_batching(self, state: State, model: Extractor) -> None:
        if state.done and (state.epoch, state.batching) != (model.epoch, model.batching):
            raise InputError(
                "the model batches records in another way than when this output was begun",
                path=self._job.out,
                found=model.batching,
                expected=state.batching,
                next_step=f"go on with the edgekit, --ctx, --parallel, --threads and machine that began it, or {RESTART}",
            )
        state.epoch, state.batching = model.epoch, model.batching

    def _assemble(self, output: Output) -> None:
        """Make the output from its lines; only then is it finished, and the lines can go."""
        kind, out = self._job.kind, self._job.out
        part = part_of(out, kind)
        self._watcher.stage(f"writing {out.name}")
        assemble(self._disk, kind, part, out, self._task.schema)
        output.sync(finished=True)
        with disk_errors(out):
            self._disk.remove(part)
            self._disk.sync_folder(out.parent)

    def _summary(self, state: State, before: int, differ: int, *, already: bool) -> Summary:
        notes = []
        if self._ids.full:
            notes.append(f"ids beyond the first {SeenIds.MOST:,} were not compared with those before")
        return Summary(
            out=self._job.out,
            records=state.done,
            new=state.done - before,
            errors=dict(sorted(state.errors.items())),
            review=state.reviewed,
            tokens=state.tokens,
            seconds=time.monotonic() - self._began,
            calibrated=state.calibrated,
            differ=differ,
            duplicate_ids=self._ids.twice,
            first_duplicate=self._ids.first,
            notes=tuple(notes),
            already_finished=already,
        )


def _texts(records: Iterable[Record], waiting: deque[Record]) -> Iterator[str]:
    """The texts for the model; a record with a fault goes as an empty one, so that results and records pair up."""
    for record in records:
        waiting.append(record)
        yield record.text
