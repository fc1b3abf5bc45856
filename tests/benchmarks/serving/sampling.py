"""How much of a step goes into masks and into choosing tokens: eight answers at once, a vocabulary of 128k.

``python -m tests.benchmarks.serving.sampling BUNDLE THREADS OUT``
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tests.benchmarks.common import Setting, say
from tests.benchmarks.report import table
from tests.benchmarks.serving.job import bounded, restaurant

if TYPE_CHECKING:
    from edgekit.model import Model

ROWS = 8
RECORDS, STRINGS, TOKENS = 16, 48, 48
CHOOSING = ("MaskBatch.compute", "MaskBatch.best", "Writer.take", "Writer.choose")
"""Writer.choose holds the sampler, and the mask of an answer that is not greedy."""
ENGINE = "decode"


def run(setting: Setting) -> str:
    """One markdown section."""
    say("masks and sampling …")
    bundle = setting.bundle(setting.model(), "Q4_K_M")
    found = setting.ask("serving.sampling", bundle, setting.threads)
    rows = [_row(name, steps) for name, steps in found.items()]
    header = [
        "",
        "steps",
        "step, ms",
        "engine, %",
        *(f"{part}, %" for part in CHOOSING),
        "together, %",
        "target",
    ]
    title = f"### Masks and sampling, {ROWS} answers at once, {setting.size} model"
    return f"{title}\n\n{table(header, rows)}"


def _row(name: str, steps: list[dict[str, float]]) -> list[str]:
    whole = sum(step["whole"] for step in steps)
    shares = {part: 100 * sum(step.get(part, 0.0) for step in steps) / whole for part in (ENGINE, *CHOOSING)}
    together = sum(shares[part] for part in CHOOSING)
    middle = 1e3 * median(step["whole"] for step in steps)
    cells = [f"{shares[part]:.1f}" for part in (ENGINE, *CHOOSING)]
    return [name, str(len(steps)), f"{middle:.1f}", *cells, f"{together:.1f}", "≤ 5"]


class Watch:
    """Seconds of each step by part; only steps that are nothing but ``ROWS`` answers going on are kept."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._busy = self._full = False

    def part(self, owner: Any, name: str, label: str) -> None:
        """Count a method's time, unless another counted one has called it."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*given: Any, **named: Any) -> Any:
            if self._busy:
                return inner(*given, **named)
            self._busy, began = True, perf_counter()
            try:
                return inner(*given, **named)
            finally:
                self._parts[label] += perf_counter() - began
                self._busy = False

        setattr(owner, name, timed)

    def step(self, scheduler: Any) -> None:
        """Watch whole steps, admission and all."""
        once, compute = scheduler._once, scheduler._compute

        def watched_compute(self_: Any, active: list[Any]) -> None:
            self._full = len(active) == ROWS and not any(slot.boundary for slot in active)
            compute(self_, active)

        def watched_once(self_: Any) -> None:
            self._full = False
            self._parts.clear()
            began = perf_counter()
            once(self_)
            if self._full:
                self.steps.append({**self._parts, "whole": perf_counter() - began})

        scheduler._compute, scheduler._once = watched_compute, watched_once

    def taken(self) -> list[Mapping[str, float]]:
        """The steps so far, and begin anew."""
        steps, self.steps = self.steps, []
        return list(steps)


def _free(model: Model, **options: Any) -> None:
    """As many texts as there are rows, at once."""

    def one(number: int) -> str:
        return model.generate(f"table {number} for four", max_tokens=TOKENS, seed=number, **options)

    with ThreadPoolExecutor(ROWS) as pool:
        list(pool.map(one, range(ROWS)))


def main() -> None:
    """Every way of choosing in turn, the first one twice: once to warm up."""
    bundle, threads, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    import edgekit
    from edgekit.runtimes.llamacpp import LlamaCppEngine
    from edgekit.runtimes.masks import MaskBatch
    from edgekit.runtimes.scheduler import Scheduler
    from edgekit.runtimes.writer import Writer

    watch = Watch()
    for owner in (MaskBatch, Writer):
        for label in CHOOSING:
            if label.startswith(f"{owner.__name__}."):
                watch.part(owner, label.rpartition(".")[2], label)
    watch.part(LlamaCppEngine, "decode", ENGINE)
    watch.step(Scheduler)
    whole, _ = restaurant(threads, RECORDS)
    job = bounded(whole, RECORDS, STRINGS, 0)
    with edgekit.load(bundle, threads=threads, n_parallel=ROWS, n_ctx=1024) as model:

        def extract(**options: Any) -> None:
            list(model.extract_many(job.texts, job.schema, job.prompt, max_tokens=200, **options))

        ways: dict[str, Callable[[], None]] = {
            "greedy, JSON Schema": extract,
            "temperature 0.8, top-k 40, JSON Schema": lambda: extract(temperature=0.8, top_k=40, seed=1),
            "greedy text": lambda: _free(model),
            "temperature 0.8, top-k 40": lambda: _free(model, temperature=0.8, top_k=40),
            "temperature 0.8, top-p 0.95": lambda: _free(model, temperature=0.8, top_p=0.95),
        }
        _free(model)
        extract()
        watch.taken()
        found = {}
        for name, way in ways.items():
            way()
            found[name] = watch.taken()
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
