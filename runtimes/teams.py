"""Several engines over the same weights, a core each: for many short answers of a small model.

In a small model's step the threads spend more time waiting for each other than the weights take to read again.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Literal, TypedDict

from edgekit.runtimes.cores import default_threads
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

SMALL: Final = 128 << 20
"""Bytes of weights up to which engines of a core each are faster than one on all cores."""
MOST: Final = 4
"""Engines at most: Python's part of their work is done by one at a time."""
SEQUENCES: Final = 10
BATCH: Final = 128
"""Tokens per call of such an engine: its buffers grow with it."""


class _Attention(TypedDict, total=False):
    flash: bool
    value_type: Literal["bf16"]


def _attention(kv_type: str) -> _Attention:
    """What a few short sequences are best kept in, where the user's choice leaves that open.

    llama.cpp sums f16 values in f16, which x86 CPUs convert to and fro: with bf16, which is taken up into f32, answers
    come 1.2 times as fast (2 cores with AVX-512), 7.5e-5 nats of KL divergence from f32 instead of 6.0e-5. Elsewhere,
    matrix products over all places of the cache beat its flash attention, which goes through them one by one.
    """
    if kv_type != "f16":
        return {}
    return {"value_type": "bf16"} if platform.machine().lower() in ("x86_64", "amd64") else {"flash": False}


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
        **_attention(options.kv_type),
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
