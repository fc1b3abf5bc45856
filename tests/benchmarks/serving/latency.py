"""Time to the first token of a short request, alone and while eight long answers are being written.

``python -m tests.benchmarks.serving.latency BUNDLE THREADS OUT``
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.benchmarks.common import Setting, say
from tests.benchmarks.report import spread, table
from tests.benchmarks.serving.job import EXAMPLE

if TYPE_CHECKING:
    from edgekit.model import Model
    from edgekit.runtimes.request import Finish

LONG, LONG_TOKENS = 8, 512
SHORT = 16
CONTEXT = 1024


def run(setting: Setting) -> str:
    """Two models; one markdown section."""
    bundles = {
        f"{setting.size} Q4_K_M": setting.bundle(setting.model(), "Q4_K_M"),
        "restaurant Q8_0": setting.bundle(EXAMPLE, "Q8_0"),
    }
    rows = []
    for name, bundle in bundles.items():
        say(f"latency of {name} …")
        rows.append(_row(name, setting.ask("serving.latency", bundle, setting.threads)))
    header = [
        "first token of a short request, ms",
        "alone",
        f"beside {LONG} long ones",
        "one step",
        "of the target",
    ]
    header.append("target")
    return f"### Latency under load\n\n{table(header, rows)}"


def _row(name: str, found: dict[str, Any]) -> list[str]:
    alone, loaded, step = found["alone"], found["loaded"], found["step"]
    most = 2 * median(alone) + median(step)
    cells = [spread(values, 1, 1e-3) for values in (alone, loaded, step)]
    shown = f"{name} ({found['prompt']} prompt tokens, {len(loaded)} times)"
    return [shown, *cells, f"{median(loaded) / most:.2f}", "≤ 1.00: twice alone plus one step"]


def main() -> None:
    """Measure one model."""
    bundle, threads, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    import edgekit

    # The default is eight at once; a ninth would have to wait for one of the long ones.
    room = LONG * CONTEXT + CONTEXT
    with edgekit.load(bundle, threads=threads, n_ctx=CONTEXT, n_parallel=2 * LONG, n_kv=room) as model:
        model._engine.eos_ids = frozenset()
        _first_token(model, -1)
        alone = [_first_token(model, number)[0] for number in range(SHORT)]
        steps = Steps(model)
        stop = _start_long(model)
        while len(steps.seconds) < 3:  # the pauses below are parts of a step
            time.sleep(0.01)
        pause = random.Random(0)
        loaded = []
        for number in range(SHORT, 2 * SHORT):
            time.sleep(pause.random() * steps.last)  # at any moment of a step
            loaded.append(_first_token(model, number))
        unfinished = stop()
    if not unfinished:
        raise SystemExit("the long answers were over before the short ones: nothing was measured")
    found = {"alone": alone, "loaded": [seconds for seconds, _ in loaded], "step": steps.seconds}
    out.write_text(json.dumps({**found, "prompt": loaded[0][1]}))


def _first_token(model: Model, number: int) -> tuple[float, int]:
    """Seconds to the first token of a short prompt that is new but for the template, and its length."""
    began = time.perf_counter()
    *_, finish = model.pieces(f"{number} would like a table for two tonight at half past eight", max_tokens=1)
    seconds = time.perf_counter() - began
    assert not isinstance(finish, str)
    return seconds, finish.prompt_tokens


class Steps:
    """How long a step of the eight takes, from one call of the engine to the next."""

    def __init__(self, model: Model) -> None:
        self.seconds: list[float] = []
        self.last = 0.0
        before: tuple[float, int] = (0.0, 0)
        decode = model._engine.decode

        def timed(runs: Sequence[Any]) -> Any:
            nonlocal before
            now, size = time.perf_counter(), sum(len(run.tokens) for run in runs)
            if before[1] == size == LONG:
                self.last = now - before[0]
                self.seconds.append(self.last)
            before = now, size
            return decode(runs)

        model._engine.decode = timed  # type: ignore[method-assign]


def _start_long(model: Model) -> Any:
    """Eight long answers, all past their first token; the result ends them and says how many were unfinished."""
    streams = [model.pieces(f"{number} is a long story", max_tokens=LONG_TOKENS) for number in range(LONG)]
    going = threading.Barrier(LONG + 1)
    over = threading.Event()
    cut = []

    def read(stream: Generator[str | Finish]) -> None:
        next(stream)
        going.wait()
        for piece in stream:
            if over.is_set() and isinstance(piece, str):
                cut.append(piece)
                stream.close()

    threads = [threading.Thread(target=read, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    going.wait()

    def stop() -> int:
        over.set()
        for thread in threads:
            thread.join()
        return len(cut)

    return stop


if __name__ == "__main__":
    main()
