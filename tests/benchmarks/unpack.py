"""What decoding costs beside reading the weights, by quantization type: fitted to models of one type each.

    python -m tests.benchmarks.unpack CHECKPOINT … [--types Q8_0,Q4_K,…]

Prints what ``profiles/rates.py`` holds as ``UNPACK``, ``STEP`` and ``LAYER``, and how far the fit is from each measurement.
Give a checkpoint that caches hold and one that they don't. Run alone on the machine, with the extra ``oracles``.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.build import build
from edgekit.project import BuildSpec
from tests.benchmarks.report import table

TYPES = "F16,BF16,Q8_0,Q6_K,Q5_K,Q4_K,Q3_K,Q2_K,Q4_0,Q4_1,Q5_0,Q5_1,IQ4_XS,IQ4_NL"
SECONDS = 1.5


@dataclass(frozen=True)
class Sample:
    """A model of one type on so many threads: what a token reads, multiplies and takes."""

    kind: str
    threads: int
    read_seconds: float
    weights: float
    layers: int
    seconds: float


def child(path: Path, threads: int) -> float:
    """Seconds of a token, the best of some."""
    from edgekit.bench_worker import decode_rate
    from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

    engine = LlamaCppEngine(path, LlamaCppOptions(n_ctx=256, threads=threads, n_gpu_layers=0))
    tokens = [5 + i % 300 for i in range(8)]
    count = max(8, min(200, int(SECONDS / 3 * decode_rate(engine, tokens))))
    best = max(decode_rate(engine, (tokens * 25)[:count]) for _ in range(3))
    engine.close()
    return 1 / best


def samples(checkpoint: Path, kind: str, folder: Path) -> list[Sample]:
    """The checkpoint in one type, on one thread and on all that are picked."""
    from edgekit.choosing import find
    from edgekit.here import hardware
    from edgekit.profiles.bandwidth import measure
    from edgekit.profiles.hardware import threads as fast
    from edgekit.profiles.predict import _between

    spec = BuildSpec(
        checkpoint, folder, "one", quantizations=("Q8_0",), tensor_types=(f".*={kind}",), force=True
    )
    built = build(spec)[0].folder
    shape, found = find(built).shape, []
    for threads in sorted({1, fast(hardware().cpu)}):
        main, cached = measure(threads, hardware().memory.available or 1 << 30)
        command = [sys.executable, "-m", __spec__.name, "--child", str(built / "model.gguf"), str(threads)]
        seconds = float(subprocess.run(command, capture_output=True, check=True).stdout)
        read = shape.token_bytes / _between(shape.token_bytes, cached, main)
        found.append(Sample(kind, threads, read, shape.token_weights, shape.layers, seconds))
    return found


def fit(found: list[Sample]) -> tuple[float, float, float, dict[str, float], NDArray[np.float64]]:
    """(efficiency, seconds a token, seconds a layer, seconds a weight by type, errors) of the least squares of logarithms."""
    from scipy.optimize import least_squares

    kinds = sorted({one.kind for one in found})

    def errors(x: NDArray[np.float64]) -> list[float]:
        costs = dict(zip(kinds, np.exp(x[3:]), strict=True))
        return [
            math.log((x[1] + x[2] * s.layers + s.read_seconds / x[0] + s.weights * costs[s.kind] / s.threads) / s.seconds)
            for s in found
        ]  # fmt: skip

    start = [0.9, 5e-5, 1e-5, *[math.log(4e-11)] * len(kinds)]
    low, high = [0.4, 0, 0, *[-28.0] * len(kinds)], [1.0, 1e-3, 1e-4, *[-21.0] * len(kinds)]
    x = least_squares(errors, start, bounds=(low, high), x_scale=[1, 1e-4, 1e-5, *[1.0] * len(kinds)]).x
    costs = {kind: float(cost) for kind, cost in zip(kinds, np.exp(x[3:]), strict=True)}
    return float(x[0]), float(x[1]), float(x[2]), costs, np.exp(errors(x)) - 1


def main() -> None:
    """Measure, fit, print."""
    if sys.argv[1] == "--child":
        print(child(Path(sys.argv[2]), int(sys.argv[3])))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--types", default=TYPES)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [
            one
            for checkpoint in wanted.checkpoints
            for kind in wanted.types.split(",")
            for one in samples(checkpoint, kind, Path(folder))
        ]
    efficiency, step, layer, costs, errors = fit(found)
    heads = ["type", "threads", "M weights", "ms a token", "fit"]
    rows = [
        [
            one.kind,
            str(one.threads),
            f"{one.weights / 1e6:,.0f}",
            f"{1000 * one.seconds:.2f}",
            f"{error:+.0%}",
        ]
        for one, error in zip(found, errors, strict=True)
    ]
    print(table(heads, rows))
    print(
        f"\nEFFICIENCY {efficiency:.2f}, STEP {step * 1e6:.0f} us, LAYER {layer * 1e6:.1f} us, picoseconds a weight:"
    )
    print(msgspec.json.encode({kind: round(cost * 1e12) for kind, cost in costs.items()}).decode())


if __name__ == "__main__":
    main()
