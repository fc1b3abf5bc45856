"""How fast all threads together read memory: what bounds decoding, measured as decoding reads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

CACHED: Final = 16 << 20
"""Bytes read in a pass to see how fast caches are."""
SMALLEST: Final = 32 << 20
MOST: Final = 256 << 20
"""Bytes read in a pass: more than caches hold, as far as the time to fill them lasts."""
FILLING: Final = 0.12
READING: Final = 0.1
AGAIN: Final = 0.03
"""Seconds."""
_PIECE: Final = 4 << 20


def measure(threads: int, available: int) -> tuple[float, float]:
    """Bytes a second of main memory, and of 16 MiB that are read again and again; takes <= 0.3 s.

    The fastest of several passes counts, each thread over memory of its own.

    numpy's ``bitwise_or.reduce`` of 64-bit words reads as fast as a loop of vector loads in C (see
    ``tests/benchmarks/bandwidth.py``), and releases the GIL.
    """
    threads = max(1, threads)
    each = max(_PIECE, min(MOST, available // 8) // threads // _PIECE * _PIECE)
    with ThreadPoolExecutor(threads) as pool:
        deadline = time.perf_counter() + FILLING
        parts = list(
            pool.map(lambda _: _fill(each, max(_PIECE, SMALLEST // threads), deadline), range(threads))
        )
        few = [part[: CACHED // 8 // threads] for part in parts]
        return _fastest(pool, parts, READING), _fastest(pool, few, AGAIN)


def _fastest(pool: ThreadPoolExecutor, parts: Sequence[NDArray[Any]], seconds: float) -> float:
    """Bytes a second of the fastest pass, at least one."""
    nbytes, best = sum(part.nbytes for part in parts), 0.0
    deadline = time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < deadline:
        began = time.perf_counter()
        for _ in pool.map(np.bitwise_or.reduce, parts):
            pass
        best = max(best, nbytes / (time.perf_counter() - began))
    return best


def _fill(nbytes: int, least: int, deadline: float) -> NDArray[Any]:
    """Words of their own pages (untouched memory is one shared page of zeros), as many as time allows."""
    words = np.empty(nbytes // 8, np.int64)
    step, done = _PIECE // 8, 0
    while done < len(words) and (done * 8 < least or time.perf_counter() < deadline):
        words[done : done + step] = 1
        done += step
    return words[:done]
