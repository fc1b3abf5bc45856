"""Several engines over the same weights, a core each: for many short answers of a small model.

In a small model's step the threads spend more time waiting for each other than the weights take to read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions, default_threads

SMALL: Final = 128 << 20
"""Bytes of weights up to which engines of a core each are faster than one on all cores."""
MOST: Final = 4
"""Engines at most: Python's part of their work is done by one at a time."""
SEQUENCES: Final = 10
BATCH: Final = 128
"""Tokens per call of such an engine: its buffers grow with it."""


def forks(engine: LlamaCppEngine, options: LlamaCppOptions) -> Callable[[], Sequence[LlamaCppEngine]] | None:
    """What opens a team for ``engine``; None where it would not pay: one core, a GPU, or a larger model."""
    threads = options.threads or default_threads()
    count = min(threads, MOST)
    if count < 2 or engine.on_gpu or engine.weights > SMALL:
        return None
    each = replace(
        options,
        threads=threads // count,
        batch_threads=0,
        n_seq_max=max(SEQUENCES, options.n_seq_max),
        n_batch=min(options.n_batch, BATCH),
        # Its CPU code looks at every place of the cache, whosever it is, one by one; matrices do that faster.
        flash=False if options.kv_type == "f16" else options.flash,
    )

    def opened() -> list[LlamaCppEngine]:
        team: list[LlamaCppEngine] = []
        try:
            for _ in range(count):
                team.append(engine.fork(each))
        except BaseException:
            for one in team:
                one.close()
            raise
        return team

    return opened
