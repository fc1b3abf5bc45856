"""The bandwidth that edgekit measures, beside a loop of loads in C over buffers of 1 GiB, by turns.

    python -m tests.benchmarks.bandwidth

Needs a C compiler (``CC``, by default cc). Run it on an idle machine.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from edgekit.here import hardware
from edgekit.profiles.bandwidth import measure
from edgekit.profiles.hardware import threads

CODE = """
#include <stdint.h>
#include <stddef.h>
uint64_t read_all(const uint64_t *p, size_t n) {
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i + 32 <= n; i += 32)
        for (int k = 0; k < 8; k++) { a |= p[i + k]; b |= p[i + 8 + k]; c |= p[i + 16 + k]; d |= p[i + 24 + k]; }
    return a | b | c | d;
}
"""
BUFFER = 1 << 30
ROUNDS = 5


def compiled(folder: Path) -> ctypes.CDLL:
    """The loop, as the compiler makes it for this processor."""
    (folder / "read.c").write_text(CODE)
    command = [
        os.environ.get("CC", "cc"),
        "-O3",
        "-march=native",
        "-shared",
        "-fPIC",
        "read.c",
        "-o",
        "read.so",
    ]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "read.so"))
    library.read_all.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.read_all.restype = ctypes.c_uint64
    return library


def main() -> None:
    count = threads(hardware().cpu)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(count) as pool:
        library = compiled(Path(folder))
        parts = [np.ones(BUFFER // 8 // count, np.int64) for _ in range(count)]

        def in_c() -> float:
            best = 0.0
            for _ in range(5):
                began = time.perf_counter()
                list(pool.map(lambda part: library.read_all(part.ctypes.data, part.size), parts))
                best = max(best, sum(part.nbytes for part in parts) / (time.perf_counter() - began))
            return best

        ours, theirs, seconds = [], [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            ours.append(measure(count, psutil.virtual_memory().available)[0])
            seconds.append(time.perf_counter() - began)
            theirs.append(in_c())
    print(f"{count} threads, load average {psutil.getloadavg()[0]:.1f}; medians of {ROUNDS}")
    print(
        f"  edgekit {median(ours) / 1e9:.1f} GB/s in {median(seconds):.2f} s (at most {max(seconds):.2f} s)"
    )
    print(f"  C       {median(theirs) / 1e9:.1f} GB/s")
    print(f"  ratio   {median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}")


if __name__ == "__main__":
    main()
