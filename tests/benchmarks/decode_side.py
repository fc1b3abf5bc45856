"""Both decode loops in one process, turn by turn: ``python -m tests.benchmarks.decode_side GGUF THREADS OUT``."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edgekit.answer import collect
from edgekit.model import Model
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions
from tests.benchmarks.bare import BATCH, CONTEXT, Bare

PROMPT = 256
LEAST_PAIRS, MOST_PAIRS, SECONDS = 8, 60, 20.0
WORDS = ["table", "for", "four", "people", "on", "the", "second", "of", "june", "at", "half", "past", "seven"]


def open_model(path: Path, threads: int) -> Model:
    """A model that never ends an answer by itself, so that both sides generate as many tokens."""
    engine = LlamaCppEngine(path, LlamaCppOptions(n_ctx=CONTEXT, threads=threads, n_batch=BATCH))
    engine.eos_ids = frozenset()
    return Model(engine)


def prompt(model: Model, tokens: int, number: int) -> str:
    """About ``tokens`` tokens of text that no earlier prompt shares: nothing may come from the cache."""
    text = "abcdefghijklmnopqrstuvwxyz"[number % 26] + str(number)
    for word in itertools.cycle(WORDS):
        if len(model.tokens(text)) >= tokens:
            return text
        text += " " + word
    raise AssertionError


def pairs(ours: Callable[[int], float], theirs: Callable[[int], float]) -> Iterator[tuple[float, float]]:
    """A B A B …, until there are enough of them."""
    until = time.perf_counter() + SECONDS
    for number in itertools.count():
        if number >= MOST_PAIRS or (number >= LEAST_PAIRS and time.perf_counter() > until):
            return
        yield ours(number), theirs(number)


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(model: Model, bare: Bare, length: int, count: int) -> dict[str, object]:
    """Generate ``count`` tokens after prompts of ``length`` tokens on both sides."""
    texts = [prompt(model, length, number) for number in range(MOST_PAIRS + 1)]
    _, finish = collect(model.pieces(texts[-1], raw=True, max_tokens=count))
    given = bare.generate(texts[-1], count)
    if (finish.tokens, finish.prompt_tokens) != (count, given):
        raise SystemExit(f"not the same work: {finish}, a prompt of {given} tokens")

    def ours(number: int) -> float:
        return timed(lambda: list(model.stream(texts[number], raw=True, max_tokens=count)))

    def theirs(number: int) -> float:
        return timed(lambda: bare.generate(texts[number], count))

    found = list(pairs(ours, theirs))
    return {
        "edgekit": [pair[0] for pair in found],
        "bare": [pair[1] for pair in found],
        "prompt": given,
        "tokens": count,
    }


def main() -> None:
    """Measure one artifact."""
    path, threads, count, out = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    model, bare = open_model(path, threads), Bare(path, threads)
    found = {"decode": compare(model, bare, 4, count), "first": compare(model, bare, PROMPT, 1)}
    out.write_text(json.dumps(found))
    model.close()


if __name__ == "__main__":
    main()
