"""A model's speed and memory on this machine: warm-up, repetitions, medians and spreads, beside what was predicted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import msgspec

from edgekit import bench_worker
from edgekit.bench_worker import Figures, Job, Tuned
from edgekit.errors import HardwareError, InputError
from edgekit.progress import Progress

if TYPE_CHECKING:
    from edgekit.profiles.choice import Artifact, RuntimeChoice
    from edgekit.profiles.structs import Hardware

BUSY: Final = 0.15
"""Share of all CPUs in use by others from which figures say more of them than of the model."""
ALIKE: Final = 0.02
"""Counts of threads whose speeds differ by less are the same: then fewer, or the picked, are better."""


@dataclass(frozen=True)
class Plan:
    """What to measure: each count of threads (none: the picked one), each number of answers at once."""

    path: Path
    prompt_tokens: int = 512
    gen_tokens: int = 128
    threads: tuple[int, ...] = ()
    concurrency: tuple[int, ...] = (1,)
    repetitions: int = 5
    tune: bool = False
    n_gpu_layers: int | None = None
    kv_type: str = "f16"

    def __post_init__(self) -> None:
        limits = {"prompt_tokens": (1, 1 << 20), "gen_tokens": (1, 1 << 20), "repetitions": (1, 1000)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(
                    f"{name} is out of range", found=getattr(self, name), expected=f"{low} to {high:,}"
                )
        for name, most in (("threads", 512), ("concurrency", 256)):
            if any(not 1 <= one <= most for one in getattr(self, name)):
                raise InputError(
                    f"{name} is out of range", found=getattr(self, name), expected=f"1 to {most}"
                )


@dataclass(frozen=True)
class Spread:
    """Median, least and most of the repetitions."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One setting's figures: tokens a second, seconds, bytes."""

    threads: int
    concurrency: int
    prompt: Spread
    decode: Spread
    first_token: Spread
    load_seconds: float
    peak_rss: int | None
    bandwidth_share: float | None
    """Weights read a second, over what all threads can read; for one answer at a time."""


@dataclass(frozen=True)
class Report:
    """All rows, the setting that was picked, and what was predicted for it."""

    artifact: Artifact
    hardware: Hardware
    choice: RuntimeChoice
    """With predictions that this machine's earlier results corrected."""
    rows: list[Row]
    tuned: dict[int, float]
    """Decode speed by count of threads, where it was tuned."""
    busy: float
    """Share of all CPUs that other programs used just before; such results aren't kept."""
    kept: bool
    """Whether the result will correct later predictions."""

    @property
    def picked(self) -> Row | None:
        """The row of the picked setting, one answer at a time."""
        return next(
            (row for row in self.rows if row.threads == self.choice.threads and row.concurrency == 1), None
        )


def bench(plan: Plan, progress: Progress | None = None) -> Report:
    """Measure, and remember what the picked setting gave.

    Raises what opening the model raises, and ``HardwareError`` where a measuring process dies.
    """
    from edgekit.choosing import best, choose_among, find, uncorrected
    from edgekit.here import hardware
    from edgekit.profiles.choice import Preferences

    progress, busy = progress or Progress(), others_at_work()
    here, artifact = hardware(bandwidth=True), find(plan.path)
    wishes = Preferences(
        context=plan.prompt_tokens + plan.gen_tokens,
        n_gpu_layers=plan.n_gpu_layers,
        kv_type=plan.kv_type,  # type: ignore[arg-type]
    )
    choice = best(choose_among([artifact], here, wishes), here, plan.path)
    tuned: dict[int, float] = {}
    if plan.tune:
        progress.stage("tuning threads", 1)
        tuned = tune(artifact, here, choice)
        progress.advance("", 1)
        wishes = replace(wishes, tuned_threads=_winner(tuned, choice.threads))
        choice = best(choose_among([artifact], here, wishes), here, plan.path)
    rows = _rows(plan, choice, here, progress)
    raw = best(uncorrected([artifact], here, replace(wishes, threads=choice.threads)), here, plan.path)
    report = Report(artifact, here, choice, rows, tuned, busy, False)
    return replace(report, kept=busy < BUSY and _keep(report, raw))


def others_at_work() -> float:
    """The share of all CPUs that was in use during the last quarter of a second."""
    import psutil

    return float(psutil.cpu_percent(interval=0.25)) / 100


def _rows(plan: Plan, choice: RuntimeChoice, here: Hardware, progress: Progress) -> list[Row]:
    settings = [
        (threads, concurrency)
        for threads in plan.threads or (choice.threads,)
        for concurrency in plan.concurrency
    ]
    progress.stage("measuring", len(settings) * (plan.repetitions + 1))
    rows = []
    for threads, concurrency in settings:
        job = _job(choice, plan, threads, concurrency)
        label = f"{threads} threads" + (f", {concurrency} at once" if concurrency > 1 else "")
        found = measure(job, progress, label)
        assert isinstance(found, Figures)
        decode, bandwidth = Spread.of(found.decode), here.memory.bandwidth
        on_cpu = concurrency == 1 and not choice.n_gpu_layers
        share = (
            decode.median * choice.artifact.shape.token_bytes / bandwidth if bandwidth and on_cpu else None
        )
        rows.append(
            Row(threads, concurrency, Spread.of(found.prompt), decode, Spread.of(found.first_token),
                found.load_seconds, found.peak_rss, share)
        )  # fmt: skip
    return rows


def _job(choice: RuntimeChoice, plan: Plan, threads: int, concurrency: int) -> Job:
    picked = threads == choice.threads
    return Job(
        path=choice.artifact.path,
        threads=threads,
        batch_threads=choice.batch_threads if picked else threads,
        n_gpu_layers=choice.n_gpu_layers,
        kv_type=choice.kv_type,
        prompt_tokens=plan.prompt_tokens,
        gen_tokens=plan.gen_tokens,
        repetitions=plan.repetitions,
        concurrency=concurrency,
    )


def tune(artifact: Artifact, here: Hardware, choice: RuntimeChoice) -> dict[int, float]:
    """Decode speed by count of threads, tried for some seconds; every power of two, the cores, and the picked count."""
    cpu = here.cpu
    most = cpu.usable or choice.threads
    if cpu.quota is not None:
        most = max(1, min(most, round(cpu.quota)))
    counts = {1 << i for i in range(most.bit_length())} | {most, choice.threads}
    counts |= {n for n in (cpu.usable_performance, cpu.usable_physical) if n}
    job = Job(
        path=artifact.path,
        threads=choice.threads,
        batch_threads=choice.batch_threads,
        n_gpu_layers=choice.n_gpu_layers,
        kv_type=choice.kv_type,
        prompt_tokens=1,
        gen_tokens=62,
        repetitions=1,
        tune=sorted(n for n in counts if 1 <= n <= max(most, choice.threads)),
    )
    found = measure(job, Progress(), "")
    assert isinstance(found, Tuned)
    return found.rates


def _winner(rates: dict[int, float], picked: int) -> int:
    """The fastest; the picked count, or else the least, where they are as fast."""
    alike = [count for count, rate in rates.items() if rate >= (1 - ALIKE) * max(rates.values())]
    return picked if picked in alike else min(alike)


def _keep(report: Report, raw: RuntimeChoice) -> bool:
    """Remember the picked setting's figures beside the plain prediction."""
    from edgekit import results

    row = report.picked
    if row is None:
        return False
    before = results.results(report.hardware, report.artifact)
    tuned = bool(report.tuned) or (before is not None and before.tuned and before.threads == row.threads)
    result = results.Result(
        threads=row.threads,
        n_gpu_layers=report.choice.n_gpu_layers,
        decode_tps=row.decode.median,
        prompt_tps=row.prompt.median,
        predicted_decode_tps=raw.decode_tps,
        predicted_prompt_tps=raw.prompt_tps,
        tuned=tuned,
    )
    return results.keep(report.hardware, report.artifact, result)


def measure(job: Job, progress: Progress, label: str) -> Figures | Tuned:
    """Run a job in a process of its own; ``HardwareError`` if that dies."""
    command = [sys.executable, "-P", "-m", "edgekit.bench_worker"]
    env = os.environ | {"GGML_NO_BACKTRACE": "1"}  # else an abort calls a debugger
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as child:
        assert child.stdin and child.stdout and child.stderr
        try:
            child.stdin.write(msgspec.json.encode(job))
            child.stdin.close()
            for line in child.stdout:
                said: bench_worker.Said = msgspec.json.decode(line, type=bench_worker.Said)
                if isinstance(said, bench_worker.Step):
                    progress.advance(label, 1)
                elif isinstance(said, bench_worker.Failed):
                    raise InputError(said.message)
                else:
                    return said
            words = child.stderr.read().decode("utf-8", "replace").strip().splitlines()
        except BaseException:
            child.kill()
            raise
    raise HardwareError(
        "the process that measures has died",
        path=job.path,
        found="; ".join(words[-2:])
        or f"status {child.returncode}; the system ends what takes too much memory",
        next_step="measure fewer tokens, or fewer answers at once",
    )
