"""What `extract_many` costs around the engine, and how much memory a million records take: over the fake engine.

``python -m tests.benchmarks.serving.pipeline costs|memory OUT``
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.model import Model
from edgekit.runtimes.engine import Logits, Run
from edgekit.runtimes.fake import FakeEngine
from tests.benchmarks.common import Setting, say
from tests.benchmarks.measure import own_peak
from tests.benchmarks.report import table

RECORDS, LENGTHS = 10_000, (4, 20, 52)
"""Of the one string in an answer."""
MARKS = (10_000, 100_000, 1_000_000)
MB = 1e6


def run(setting: Setting) -> str:
    """One markdown section."""
    say("costs of the pipeline …")
    found = setting.ask("serving.pipeline", "costs")
    parts = [
        f"### Pipeline around the engine (fake engine, 8 at once, {RECORDS:,} records each)",
        _costs(found),
    ]
    say("memory of a million records …")
    marks = setting.ask("serving.pipeline", "memory")
    rows = [[f"{mark['records']:,}", f"{mark['peak'] / MB:.1f}", f"{mark['seconds']:.0f}"] for mark in marks]
    title = "### Memory of a long run (fake engine, one run)"
    return "\n\n".join([*parts, title, table(["records", "peak RSS, MB", "after, s"], rows)])


def _costs(found: list[dict[str, float]]) -> str:
    rows = [
        [f"{one['tokens']:.0f}", *(f"{one[kind] * 1e6:.0f}" for kind in ("cpu", "wall", "decode"))]
        for one in found
    ]
    header = ["tokens a record", "CPU time, µs", "wall time, µs", "the engine's, taken off, µs"]
    fits = [_fit(found, kind) for kind in ("cpu", "wall")]
    fitted = [
        ["a record, µs", *(f"{fit[0]:.1f}" for fit in fits), "≤ 50"],
        ["a token, µs", *(f"{fit[1]:.1f}" for fit in fits), "≤ 20"],
    ]
    return f"{table(header, rows)}\n\n{table(['fitted', 'CPU time', 'wall time', 'target'], fitted)}"


def _fit(found: Sequence[dict[str, float]], kind: str) -> tuple[float, float]:
    """Microseconds of a record and of a token: a straight line through the lengths."""
    slope, start = np.polyfit([one["tokens"] for one in found], [one[kind] * 1e6 for one in found], 1)
    return float(start), float(slope)


class Timed(FakeEngine):
    """Counts the CPU time of its own thread inside ``decode``, and remembers the answer of every prompt's length."""

    def __init__(self, answer: str) -> None:
        super().__init__(answer, n_seq_max=8, n_ctx=512)
        self.seconds = 0.0

    def decode(self, runs: Sequence[Run]) -> Logits:
        began = time.thread_time()
        found = super().decode(runs)
        self.seconds += time.thread_time() - began
        return found

    def _script(self, prompt: Sequence[int]) -> str:
        """The one answer, without a look at the prompt, which would cost more than all the rest."""
        assert isinstance(self._answer, str)
        return self._answer


def _texts(count: int) -> Iterator[str]:
    return (f"a table for {number} please" for number in range(count))


def _cost(length: int) -> dict[str, float]:
    """Of a record whose answer has so long a string: seconds of CPU and of wall time, without the engine's."""
    engine = Timed('{"name":"' + "x" * length + '"}')
    schema = _schema({"type": "string", "maxLength": 64})
    with Model(engine, prompt="Extract: {text}", schema=schema) as model:
        deque(model.extract_many(_texts(200)), maxlen=0)
        engine.seconds = 0.0
        wall, cpu, tokens = time.perf_counter(), time.process_time(), 0
        for one in model.extract_many(_texts(RECORDS)):
            tokens += one.tokens
            if one.failure:
                raise SystemExit(f"nothing was measured: {one.failure}")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "tokens": tokens / RECORDS,
        "cpu": (cpu - engine.seconds) / RECORDS,
        "wall": (wall - engine.seconds) / RECORDS,
        "decode": engine.seconds / RECORDS,
    }


def _memory() -> list[dict[str, float]]:
    """The peak so far after so many records; answers of one choice, so that a million take minutes."""
    began, marks = time.perf_counter(), []
    schema = _schema({"enum": ["a", "b"]})
    with Model(Timed('{"name":"a"}'), prompt="{text}", schema=schema) as model:
        for number, one in enumerate(model.extract_many(_texts(MARKS[-1])), 1):
            if one.data != {"name": "a"}:
                raise SystemExit(f"record {number} went wrong: {one}")
            if number in MARKS:
                seconds = time.perf_counter() - began
                marks.append({"records": number, "peak": own_peak(), "seconds": seconds})
    return marks


def _schema(field: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": field},
        "required": ["name"],
        "additionalProperties": False,
    }


def main() -> None:
    """One of the two."""
    mode, out = sys.argv[1], Path(sys.argv[2])
    found = [_cost(length) for length in LENGTHS] if mode == "costs" else _memory()
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
