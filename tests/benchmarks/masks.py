"""Masks, argmax and log-probability of a batch: `python -m tests.benchmarks.masks`; prints a markdown table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import llguidance
import numpy as np

from edgekit.runtimes.constraint import Matcher, Vocabulary
from edgekit.runtimes.engine import Logits
from edgekit.runtimes.grammars import compile_schema
from edgekit.runtimes.masks import MaskBatch
from tests.benchmarks.report import table

NULLABLE = {"type": ["string", "null"]}
SCHEMA = {
    "type": "object",
    "properties": {name: NULLABLE for name in ("people", "date", "time", "first_name", "last_name")},
    "required": ["people", "date", "time", "first_name", "last_name"],
    "additionalProperties": False,
}
PLACES = {"a string": b'{"people":"ab', "null or quote": b'{"people":', "a number": b""}


class Words:
    """An engine of nothing but tokens: all bytes, then random words of 2 to 12 letters, then an end."""

    def __init__(self, size: int) -> None:
        random = np.random.default_rng(0)
        letters = np.frombuffer(b'abcdefghijklmnopqrstuvwxyz .,0123456789"', np.uint8)
        self.n_vocab, self.eos_ids, self.bos_token = size, frozenset({size - 1}), ""
        self.specials = {"<|end|>": size - 1}
        words = (bytes(random.choice(letters, random.integers(2, 13))) for _ in range(size - 257))
        self._tokens = [*(bytes([byte]) for byte in range(256)), *words, b""]

    def token_bytes(self, token: int) -> bytes:
        """What a token spells."""
        return self._tokens[token]

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Bytes."""
        return list(text.encode())


def main() -> None:
    """Rows by vocabulary and place; microseconds, the median of 200."""
    rows = []
    for n_rows, size in ((16, 4096), (8, 32_000), (8, 128_256), (8, 256_000)):
        start = time.perf_counter()
        vocabulary = Vocabulary(Words(size))  # type: ignore[arg-type]
        built = time.perf_counter() - start
        for place, begun in PLACES.items():
            rows.append([f"{n_rows} x {size:,}", f"{built:.2f}", place, *_one(vocabulary, n_rows, begun)])
    header = [
        "rows x vocabulary",
        "vocabulary, s",
        "in",
        "masks, µs",
        "LLExecutor, µs",
        "best, µs",
        "row by row, µs",
    ]
    sys.stdout.write(table(header, rows) + "\n")


def _one(vocabulary: Vocabulary, n_rows: int, begun: bytes) -> list[str]:
    grammar = compile_schema(SCHEMA if begun else {"type": "integer"})
    matchers = [vocabulary.matcher(grammar) for _ in range(n_rows)]
    for matcher in matchers:
        matcher.consume(list(begun))
    batch = MaskBatch(n_rows, vocabulary)
    logits = np.random.default_rng(1).normal(0, 3, (n_rows, vocabulary.size)).astype(np.float32)
    executor, pairs = llguidance.LLExecutor(), [(matcher.raw, row) for row, matcher in enumerate(matchers)]
    words = np.zeros(batch.bits.shape, np.uint32)
    address, one = words.ctypes.data, words.shape[1] * 4
    calls: list[Callable[[], object]] = [
        lambda: batch.compute(matchers),
        lambda: executor.unsafe_compute_mask_ptr(pairs, address, one, n_rows),
        lambda: batch.best(logits),
        lambda: [_plain(matcher, row) for matcher, row in zip(matchers, logits, strict=True)],
    ]
    return [f"{_time(call):,.0f}" for call in calls]


def _plain(matcher: Matcher, logits: Logits) -> tuple[int, float]:
    masked = matcher.mask(logits)
    best = int(masked.argmax())
    return best, -float(np.log(np.exp(masked - masked[best], dtype=np.float64).sum()))


def _time(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(200):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken) * 1e6


if __name__ == "__main__":
    main()
