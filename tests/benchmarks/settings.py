"""Whether the picked setting is the fastest: decoding under every count of threads and every batch size, by turns.

    python -m tests.benchmarks.settings MODEL.gguf… [--seconds 30]

Run it on an idle machine. Each round takes all settings once, in another order. The best of a dozen settings that
are alike is the luckiest one, so it is chosen by every other round, and compared with the picked in the rounds between.
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
    """Tokens a second, one by one, in an empty context, after some that wake the threads."""
    engine.clear()
    for token in range(1, 5):
        engine.decode([Run(0, [token], (0,))])
    began = time.perf_counter()
    for token in range(1, tokens + 1):
        engine.decode([Run(0, [token % 64 + 1], (0,))])
    return tokens / (time.perf_counter() - began)


def measure(path: Path, seconds: float) -> tuple[Setting, dict[Setting, list[float]]]:
    """The picked setting, and tokens a second of every round by setting."""
    choice = choose(path, here.hardware())[0]
    picked = (choice.threads, choice.batch)
    threads = range(1, (psutil.cpu_count() or 1) + 1)
    settings = [(t, b) for t in threads for b in sorted({*BATCHES, choice.batch})]
    first = LlamaCppEngine(path, LlamaCppOptions(n_ctx=512, threads=1))

    def once(setting: Setting, tokens: int) -> float:
        """In a context of its own: where its buffers happen to lie makes a difference of some percent."""
        engine = first.fork(LlamaCppOptions(n_ctx=512, threads=setting[0], n_batch=setting[1]))
        try:
            return rate(engine, tokens)
        finally:
            engine.close()

    tokens = max(8, min(128, int(once(picked, 8) * seconds / 8 / len(settings))))
    rates: dict[Setting, list[float]] = {setting: [] for setting in settings}
    until, order = time.monotonic() + seconds, list(settings)
    while time.monotonic() < until or len(rates[picked]) < 2:
        random.shuffle(order)
        for setting in order:
            rates[setting].append(once(setting, tokens))
    first.close()
    return picked, rates


def compare(picked: Setting, rates: dict[Setting, list[float]]) -> tuple[Setting, float]:
    """The best by even rounds, and how far the picked one is below it in odd rounds."""
    best = max(rates, key=lambda setting: median(rates[setting][::2]))
    pairs = zip(rates[picked][1::2], rates[best][1::2], strict=True)
    return best, 1 - median(ours / other for ours, other in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    for path in options.models:
        picked, rates = measure(path, options.seconds)
        best, short = compare(picked, rates)
        print(f"{path.name}: {len(rates[picked])} rounds, load average {psutil.getloadavg()[0]:.1f}")
        for setting, found in sorted(rates.items()):
            mark = ("  picked" if setting == picked else "") + ("  best" if setting == best else "")
            print(f"  {setting[0]} threads, batch {setting[1]:4}: {median(found):9,.1f} tok/s{mark}")
        verdict = "within" if short <= BOUND else "NOT within"
        print(f"  picked is {short:.1%} below the best: {verdict} {BOUND:.0%}")


if __name__ == "__main__":
    main()
