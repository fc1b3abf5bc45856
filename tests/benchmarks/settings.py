"""Whether the picked setting is the fastest: decoding under every count of threads and every batch size, by turns.

    python -m tests.benchmarks.settings MODEL.gguf… [--seconds 30]

Run it on an idle machine. Each round takes all settings once, in another order; a cell is the median of the rounds.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from statistics import median

import psutil

from edgekit import here
from edgekit.choosing import choose
from edgekit.runtimes.engine import Run
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

BATCHES = (64, 128, 256, 512, 1024, 2048)
BOUND = 0.03

Setting = tuple[int, int]
"""Threads, and tokens a call."""


def rate(engine: LlamaCppEngine, tokens: int) -> float:
    """Tokens a second, one by one, after an empty context."""
    engine.clear()
    engine.decode([Run(0, [1], (0,))])
    began = time.perf_counter()
    for token in range(1, tokens + 1):
        engine.decode([Run(0, [token % 64 + 1], (0,))])
    return tokens / (time.perf_counter() - began)


def measure(path: Path, seconds: float) -> tuple[Setting, dict[Setting, float], int]:
    """The picked setting, tokens a second by setting, and the rounds that there was time for."""
    choice = choose(path, here.hardware())[0]
    picked = (choice.threads, choice.batch)
    threads = range(1, (psutil.cpu_count() or 1) + 1)
    settings = [(t, b) for t in threads for b in sorted({*BATCHES, choice.batch})]
    first = LlamaCppEngine(path, LlamaCppOptions(n_ctx=512, threads=1))
    engines = {s: first.fork(LlamaCppOptions(n_ctx=512, threads=s[0], n_batch=s[1])) for s in settings}
    for engine in engines.values():
        rate(engine, 2)
    tokens = max(8, min(128, int(rate(engines[picked], 8) * seconds / 3 / len(settings))))
    rates: dict[Setting, list[float]] = {setting: [] for setting in settings}
    until, order = time.monotonic() + seconds, list(settings)
    while time.monotonic() < until or not rates[picked]:
        random.shuffle(order)
        for setting in order:
            rates[setting].append(rate(engines[setting], tokens))
    for engine in (*engines.values(), first):
        engine.close()
    return picked, {setting: median(found) for setting, found in rates.items()}, len(rates[picked])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    for path in options.models:
        picked, rates, rounds = measure(path, options.seconds)
        best = max(rates, key=lambda setting: rates[setting])
        short = 1 - rates[picked] / rates[best]
        print(f"{path.name}: {rounds} rounds, load average {psutil.getloadavg()[0]:.1f}")
        for setting, found in sorted(rates.items()):
            mark = ("  picked" if setting == picked else "") + ("  best" if setting == best else "")
            print(f"  {setting[0]} threads, batch {setting[1]:4}: {found:9,.1f} tok/s{mark}")
        print(
            f"  picked is {short:.1%} below the best; {'within' if short <= BOUND else 'NOT within'} {BOUND:.0%}"
        )


if __name__ == "__main__":
    main()
