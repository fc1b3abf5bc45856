"""Predicted against measured: memory at three contexts, each in a fresh process, and decode speed before any correction.

``python -m tests.benchmarks.predictions MODEL.gguf …``; run alone on the machine, with llama-cpp-python installed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec

from edgekit.bench_worker import peak_rss
from edgekit.profiles.choice import Preferences
from tests.benchmarks.report import table

CONTEXTS = (512, 2048, 4096)
TOKENS, TURNS = 24, 3


def child(path: str, context: int, threads: int) -> dict[str, float]:
    """Open, fill the whole context, then decode in an empty one; bytes at most and the best tokens a second."""
    from edgekit.bench_worker import decode_rate
    from edgekit.runtimes.engine import Run
    from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

    engine = LlamaCppEngine(path, LlamaCppOptions(n_ctx=context, threads=threads, n_gpu_layers=0))
    tokens = [5 + i % 300 for i in range(min(context, engine.n_ctx) - 1)]
    engine.decode([Run(0, tokens, (len(tokens) - 1,))])
    peak = peak_rss()
    time.sleep(0.2)
    rate = max(decode_rate(engine, tokens[:TOKENS]) for _ in range(TURNS))
    engine.close()
    return {"peak": float(peak or 0), "rate": rate}


def main() -> None:
    """Print the table for the models that are named."""
    from edgekit.choosing import find, uncorrected
    from edgekit.here import hardware
    from edgekit.profiles.predict import memory

    here, rows = hardware(bandwidth=True), []
    for path in map(Path, sys.argv[1:]):
        artifact = find(path)
        shape = artifact.shape
        choice = next(
            one for one in uncorrected([artifact], here, Preferences(n_gpu_layers=0)) if one.device == "CPU"
        )
        for context in CONTEXTS:
            command = [
                sys.executable,
                "-m",
                __spec__.name,
                "--child",
                artifact.path,
                str(context),
                str(choice.threads),
            ]
            done = subprocess.run(command, capture_output=True, check=True)
            found = msgspec.json.decode(done.stdout, type=dict[str, float])
            need = memory(
                shape, context=context, kv_type="f16", batch=512, sequences=1, simd=here.cpu.simd or ()
            )
            predicted = choice.decode_tps or 0.0
            rows.append([
                f"{path.parent.name} {artifact.quantization}", f"{context:,}",
                f"{need.peak / 1e6:,.1f}", f"{found['peak'] / 1e6:,.1f}", f"{100 * (need.peak / found['peak'] - 1):+.1f}%",
                f"{predicted:,.1f}", f"{found['rate']:,.1f}", f"{100 * (predicted / found['rate'] - 1):+.0f}%",
            ])  # fmt: skip
    heads = ["model", "context", "MB predicted", "peak RSS", "", "tok/s predicted", "measured", ""]
    bandwidth = (here.memory.bandwidth or 0) / 1e9
    print(f"{here.cpu.name}, {choice.threads} threads, {bandwidth:.1f} GB/s\n\n{table(heads, rows)}")


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        sys.stdout.buffer.write(msgspec.json.encode(child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
