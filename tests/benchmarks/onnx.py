"""ONNX decoding side by side: our engine, onnxruntime-genai's Generator on the same folder, an optimum export.

``python -m tests.benchmarks.onnx FOLDER --threads N [--optimum FOLDER]``; FOLDER is a bundle's ``onnx/``. The optimum export
(optimum-onnx holds transformers below 4.58, so it is made in an environment of its own) is read from the file
``model_quantized.onnx`` in its folder: int4 weights by onnxruntime's MatMulNBits quantizer, past keys and values handed on.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np

from edgekit.runtimes.engine import Run
from edgekit.runtimes.onnx import OnnxEngine
from edgekit.runtimes.rows import RowsOptions
from tests.benchmarks.report import machine

PROMPT, TOKENS = 512, 128


class Side(Protocol):
    """One way to run a model."""

    def prompt(self, tokens: list[int]) -> None: ...
    def decode(self, count: int) -> None: ...


class Ours:
    """edgekit's engine, greedy."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._engine = OnnxEngine(folder, RowsOptions(n_ctx=PROMPT + TOKENS + 8, threads=threads))
        self._next = 0

    def prompt(self, tokens: list[int]) -> None:
        self._engine.clear()
        self._next = int(self._engine.decode([Run(0, tokens, (len(tokens) - 1,))])[0].argmax())

    def decode(self, count: int) -> None:
        for _ in range(count):
            self._next = int(self._engine.decode([Run(0, [self._next], (0,))])[0].argmax())


class Genai:
    """onnxruntime-genai's Generator on a copy of the folder that asks for the same threads."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime_genai as og

        config = json.loads((folder / "genai_config.json").read_text())
        config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
        config["model"]["eos_token_id"] = [config["model"]["vocab_size"] - 1]  # no answer ends by itself
        (folder / "genai_config.json").write_text(json.dumps(config))
        self._og, self._model = og, og.Model(str(folder))
        self._generator: Any = None

    def prompt(self, tokens: list[int]) -> None:
        params = self._og.GeneratorParams(self._model)
        params.set_search_options(max_length=PROMPT + TOKENS + 8, do_sample=False)
        self._generator = self._og.Generator(self._model, params)
        self._generator.append_tokens(np.array(tokens, np.int32))
        self._generator.generate_next_token()  # the prompt is computed when its first token is asked for

    def decode(self, count: int) -> None:
        for _ in range(count):
            self._generator.generate_next_token()


class Optimum:
    """A graph as optimum exports it: keys and values come out longer than they went in."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._ort = ort
        self._session = ort.InferenceSession(
            str(folder / "model_quantized.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._shapes = {one.name: one.shape for one in self._session.get_inputs()}
        self._past: list[Any] = []
        self._length = self._next = 0

    def _run(self, tokens: list[int]) -> None:
        binding = self._session.io_binding()
        total = self._length + len(tokens)
        given = {
            "input_ids": np.array([tokens], np.int64), "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(self._length, total, dtype=np.int64)[None],
        }  # fmt: skip
        for name in given.keys() & self._shapes.keys():
            binding.bind_cpu_input(name, given[name])
        names = [name for name in self._shapes if name.startswith("past_key_values")]
        for at, name in enumerate(names):
            if self._past:
                binding.bind_ortvalue_input(name, self._past[at])
            else:
                shape = self._shapes[name]
                binding.bind_cpu_input(name, np.zeros((1, shape[1], 0, shape[3]), np.float32))
        for one in self._session.get_outputs():
            binding.bind_output(one.name, "cpu")
        self._session.run_with_iobinding(binding)
        logits, *self._past = binding.get_outputs()
        self._length = total
        self._next = int(logits.numpy()[0, -1].argmax())

    def prompt(self, tokens: list[int]) -> None:
        self._past, self._length = [], 0
        self._run(tokens)

    def decode(self, count: int) -> None:
        for _ in range(count):
            self._run([self._next])


def measure(side: Side, vocabulary: int, repetitions: int) -> tuple[float, float]:
    """Tokens a second of prompt and answer, medians; the first one warms up."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(repetitions + 1):
        tokens = rng.integers(5, vocabulary - 1, PROMPT).tolist()
        began = time.perf_counter()
        side.prompt(tokens)
        middle = time.perf_counter()
        side.decode(TOKENS)
        found.append((PROMPT / (middle - began), TOKENS / (time.perf_counter() - middle)))
    prompts, answers = zip(*found[1:], strict=True)
    return statistics.median(prompts), statistics.median(answers)


def child(side: str, folder: Path, threads: int) -> tuple[float, float]:
    """One side in a process of its own: idle threads of another runtime would take cores from it."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.onnx",
        str(folder),
        "--threads",
        str(threads),
        "--side",
        side,
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    prompt, answer = json.loads(said.splitlines()[-1])
    return prompt, answer


SIDES: dict[str, Callable[[Path, int], Side]] = {
    "edgekit": Ours,
    "onnxruntime-genai": Genai,
    "optimum export, int4": Optimum,
}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--rounds", type=int, default=6, show_default=True)
@click.option("--repetitions", type=int, default=6, show_default=True)
@click.option("--optimum", type=click.Path(path_type=Path))
@click.option("--side", hidden=True)
def main(
    folder: Path, threads: int, rounds: int, repetitions: int, optimum: Path | None, side: str | None
) -> None:
    """Print a markdown table; a ratio is ours / theirs, the median over rounds."""
    if side:
        vocabulary = json.loads(
            (
                folder / "config.json" if side.startswith("optimum") else folder / "genai_config.json"
            ).read_text()
        )
        size = vocabulary["vocab_size"] if side.startswith("optimum") else vocabulary["model"]["vocab_size"]
        print(json.dumps(measure(SIDES[side](folder, threads), size, repetitions)))
        return
    rows: list[dict[str, tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as temporary:
        copied = Path(temporary) / "onnx"
        shutil.copytree(folder, copied)
        places = {"edgekit": folder, "onnxruntime-genai": copied}
        if optimum:
            places["optimum export, int4"] = optimum
        for number in range(rounds):
            order = list(places) if number % 2 else list(places)[::-1]
            rows.append({name: child(name, places[name], threads) for name in order})
    print(machine(threads))
    print(
        f"\n| | prompt of {PROMPT}, tok/s | edgekit / it | {TOKENS} tokens, tok/s | edgekit / it |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for name in places:
        cells = []
        for part in (0, 1):
            values = [row[name][part] for row in rows]
            ratios = [row["edgekit"][part] / row[name][part] for row in rows]
            cells += [f"{statistics.median(values):,.0f}", f"{statistics.median(ratios):.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
