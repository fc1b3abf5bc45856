"""What `edgekit eval` costs on a text beside plain forward passes over the same tokens, chunk by chunk by turns.

    python -m tests.benchmarks.evaluation TEXT REFERENCE.gguf CANDIDATE.gguf [CHUNKS]

Prints the ratio of the times of all chunks, the median ratio of a chunk, and the peak of memory beyond the weights.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from edgekit.bench_worker import peak_rss
from edgekit.evaluation.text import cut, measure, read_plain, tokens_of
from edgekit.runtimes.chunks import ROWS, side_by_side
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

CHUNK = 512


def plain(engines: Sequence[LlamaCppEngine], chunk: Sequence[int]) -> float:
    """Seconds that each engine takes to read the chunk, the same logits wanted."""
    began = time.perf_counter()
    for engine in engines:
        for _ in side_by_side([engine], chunk, len(chunk) // 2):
            pass
    return time.perf_counter() - began


def pairs(engines: Sequence[LlamaCppEngine], chunks: Sequence[Sequence[int]]) -> list[tuple[float, float]]:
    """Seconds of a chunk's plain passes, and of its evaluation, in the middle of the evaluation of all."""
    found: list[tuple[float, float]] = []
    began = time.perf_counter()

    def advance(number: int) -> None:
        nonlocal began
        took = time.perf_counter() - began
        found.append((plain(engines, chunks[number]), took))
        began = time.perf_counter()

    measure([("", engine) for engine in engines], chunks, advance)
    return found


def main() -> None:
    """Measure and print."""
    text, reference, candidate = map(Path, sys.argv[1:4])
    options = LlamaCppOptions(n_ctx=CHUNK, n_outputs=ROWS)
    engines = [LlamaCppEngine(path, options) for path in (reference, candidate)]
    tokens, bos = tokens_of(engines[0], read_plain(text))
    chunks = cut(tokens, bos, CHUNK, int(sys.argv[4]) if len(sys.argv) > 4 else 20, text)
    plain(engines, chunks[0])
    before = peak_rss() or 0
    found = pairs(engines, chunks)
    ratio = sum(two for _, two in found) / sum(one for one, _ in found)
    each = median(two / one for one, two in found)
    more = (peak_rss() or 0) - before
    print(
        f"vocabulary {engines[0].n_vocab:,}, {len(chunks)} chunks: {ratio:.3f} of two plain passes (median of a chunk "
        f"{each:.3f}), {median(one for one, _ in found) * 1000:,.0f} ms a plain chunk; {more / 1e6:,.1f} MB more than they took"
    )


if __name__ == "__main__":
    main()
