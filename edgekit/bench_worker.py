"""One setting's benchmark in a fresh process: ``python -m edgekit.bench_worker``, a request in, lines of JSON out.

Fresh, so that its peak of memory and its time to load are those of an application that does nothing else.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.runtimes.engine import Engine
    from edgekit.runtimes.llamacpp import LlamaCppOptions

TUNING: Final = 4.0
"""Seconds for trying counts of threads, after loading."""
DROPPED: Final = 0.8
"""Share of the best speed below which a count of threads is tried no further."""


class Job(msgspec.Struct, frozen=True):
    """What to measure. ``tune``: counts of threads to choose among, instead of measuring one."""

    path: str
    threads: int
    batch_threads: int
    n_gpu_layers: int
    kv_type: str
    prompt_tokens: int
    gen_tokens: int
    repetitions: int
    concurrency: int = 1
    tune: list[int] = []


class Step(msgspec.Struct, tag=True, frozen=True):
    """Progress: repetition ``done`` of ``total``."""

    done: int
    total: int


class Figures(msgspec.Struct, tag=True, frozen=True):
    """Measured: tokens a second and seconds to the first token by repetition; seconds to load; bytes at most."""

    prompt: list[float]
    decode: list[float]
    first_token: list[float]
    load_seconds: float
    peak_rss: int | None


class Tuned(msgspec.Struct, tag=True, frozen=True):
    """Decode speed by count of threads."""

    rates: dict[int, float]


class Failed(msgspec.Struct, tag=True, frozen=True):
    """An error of edgekit's."""

    message: str


Said = Step | Figures | Tuned | Failed


def run(job: Job, say: Callable[[Said], None]) -> Figures | Tuned:
    """Load and measure; ``say`` hears of progress."""
    began = time.perf_counter()
    engine = _open(job)
    loaded = time.perf_counter() - began
    try:
        if job.tune:
            return Tuned(tune(partial(_again, engine, job), job.tune))
        measured = _together if job.concurrency > 1 else _alone
        prompt, decode, first = [], [], []
        for done, (one, two, three) in enumerate(measured(engine, job)):
            if done:  # the first is the warm-up
                prompt.append(one)
                decode.append(two)
                first.append(three)
            say(Step(done + 1, job.repetitions + 1))
    finally:
        engine.close()
    return Figures(prompt, decode, first, loaded, peak_rss())


def _options(job: Job) -> LlamaCppOptions:
    from edgekit.runtimes.llamacpp import LlamaCppOptions

    context = max(64, job.prompt_tokens + job.gen_tokens + 1)
    kind: Any = job.kv_type
    return LlamaCppOptions(
        n_ctx=context,
        n_seq_max=job.concurrency,
        n_kv=context * job.concurrency,
        kv_type=kind,
        threads=job.threads,
        batch_threads=job.batch_threads,
        n_gpu_layers=job.n_gpu_layers,
    )


def _open(job: Job) -> Engine:
    from edgekit.engines import rows
    from edgekit.forms import is_gguf

    path = Path(job.path)
    if not is_gguf(path):
        from edgekit.runtimes.rows import RowsOptions

        context = max(64, job.prompt_tokens + job.gen_tokens + 1)
        return rows(path, RowsOptions(context, job.concurrency, job.threads))
    from edgekit.runtimes.llamacpp import LlamaCppEngine

    return LlamaCppEngine(path, _options(job))


def _again(engine: Engine, job: Job, threads: int) -> Engine:
    """The same model with other threads and a short context: over the same weights where llama.cpp has them."""
    from edgekit.engines import rows
    from edgekit.runtimes.llamacpp import LlamaCppEngine
    from edgekit.runtimes.rows import RowsOptions

    if isinstance(engine, LlamaCppEngine):
        small = replace(_options(job), n_ctx=64, n_seq_max=1, n_kv=None)
        return engine.fork(replace(small, threads=threads, batch_threads=0))
    return rows(Path(job.path), RowsOptions(64, 1, threads))


def _alone(engine: Engine, job: Job) -> Iterator[tuple[float, float, float]]:
    """llama-bench's tests, through the engine: a prompt in an empty context, then tokens in an empty context."""
    from edgekit.runtimes.engine import Run

    numbers = random.Random(0)
    for _ in range(job.repetitions + 1):
        tokens = [numbers.randrange(engine.n_vocab) for _ in range(max(job.prompt_tokens, job.gen_tokens))]
        engine.clear()
        began = time.perf_counter()
        engine.decode([Run(0, tokens[: job.prompt_tokens], (job.prompt_tokens - 1,))])
        first = time.perf_counter() - began
        yield job.prompt_tokens / first, decode_rate(engine, tokens[: job.gen_tokens]), first


def decode_rate(engine: Engine, tokens: list[int]) -> float:
    """Tokens a second, one after the other, in an empty context."""
    from edgekit.runtimes.engine import Run

    engine.clear()
    began = time.perf_counter()
    for token in tokens:
        engine.decode([Run(0, (token,), (0,))])
    return len(tokens) / (time.perf_counter() - began)


def _together(engine: Engine, job: Job) -> Iterator[tuple[float, float, float]]:
    """Answers at once through the scheduler: prompt tokens and answer tokens a second of all, median first token."""
    from queue import SimpleQueue
    from statistics import median

    from edgekit.runtimes.request import Finish, Request
    from edgekit.runtimes.scheduler import Scheduler

    engine.eos_ids = frozenset()  # every answer has its full length
    numbers = random.Random(0)
    scheduler = Scheduler(engine)
    try:
        for _ in range(job.repetitions + 1):
            events: SimpleQueue[str | Finish | BaseException] = SimpleQueue()
            prompts = [
                [numbers.randrange(engine.n_vocab) for _ in range(job.prompt_tokens)]
                for _ in range(job.concurrency)
            ]
            request = Request(max_tokens=job.gen_tokens)
            began = time.perf_counter()
            scheduler.submit(*(scheduler.ticket(prompt, request, events.put) for prompt in prompts))
            finished = list(_finishes(events, job.concurrency))
            seconds = time.perf_counter() - began
            firsts = [one.first_token_seconds for one in finished]
            tokens = sum(one.tokens for one in finished)
            reading = max(firsts)
            yield (
                job.prompt_tokens * job.concurrency / reading,
                tokens / seconds,
                median(firsts),
            )
    finally:
        scheduler.stop()


def _finishes(events: Any, count: int) -> Iterator[Any]:
    while count:
        event = events.get()
        if isinstance(event, BaseException):
            raise event
        if not isinstance(event, str):
            count -= 1
            yield event


def tune(opened: Callable[[int], Engine], counts: list[int]) -> dict[int, float]:
    """Decode speed by count of threads: by turns, a few tokens each, those far behind left out after the first turn."""
    from statistics import median

    engines = {count: opened(count) for count in counts}
    rates: dict[int, list[float]] = {count: [] for count in counts}
    until, alive = time.perf_counter() + TUNING, list(counts)
    try:
        tokens = _few(engines[max(counts)], len(counts))
        while time.perf_counter() < until or not rates[alive[-1]]:
            for count in alive:
                if time.perf_counter() < until or not rates[count]:
                    rates[count].append(decode_rate(engines[count], tokens))
            best = max(median(found) for found in rates.values() if found)
            alive = [count for count in alive if median(rates[count]) > DROPPED * best]
            if len(alive) == 1 and len(rates[alive[0]]) > 1:
                break
    finally:
        for one in engines.values():
            one.close()
    return {count: median(found) for count, found in rates.items()}


def _few(engine: Engine, settings: int) -> list[int]:
    """So many tokens that a first turn of all settings takes about a quarter of the time; also a warm-up."""
    rate = decode_rate(engine, [1, 2])
    return [1 + i % 32 for i in range(max(2, min(60, int(rate * TUNING / 4 / settings))))]


def peak_rss() -> int | None:
    """Bytes of this process's memory at its largest, as the system counted; None where it doesn't tell."""
    import psutil

    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):  # getrusage's figure would include the parent's before exec
                return int(line.split()[1]) << 10
    except (OSError, ValueError):
        pass
    windows = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if windows is not None:
        return int(windows)
    if sys.platform == "darwin":
        import resource

        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return None


def main() -> None:
    """Read a job, do it, say how it goes and what came out."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)

    def say(what: Said) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
        sys.stdout.buffer.flush()

    try:
        say(run(job, say))
    except EdgekitError as error:
        say(Failed(str(error)))


if __name__ == "__main__":
    main()
