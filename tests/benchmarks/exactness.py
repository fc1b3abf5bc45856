"""Whether an answer depends on what else is asked: logits and whole answers, alone against in company.

    python -m tests.benchmarks.exactness dist/restaurant-q8_0 dist/restaurant-q4_k_m dist/restaurant-f32

It needs no network and no idle machine: nothing is timed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import click
import numpy as np

import edgekit
from edgekit.bundle import Bundle
from edgekit.runtimes.engine import Logits, Run
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions
from tests.benchmarks.report import table

TASK: Final = Path("examples/restaurant/task/test.jsonl")
SEQUENCES: Final = 8
PIECE: Final = 16
TILED: Final = 64
"""Tokens of a call from which llama.cpp's flash attention on a CPU takes another kernel."""

Case = Callable[[LlamaCppEngine, Sequence[Sequence[int]], int], Logits]
"""Logits after the last token of one of the prompts, computed in some way."""


def alone(engine: LlamaCppEngine, prompts: Sequence[Sequence[int]], at: int) -> Logits:
    """The reference: the prompt in one call, in an empty cache."""
    engine.clear()
    return _last(engine, at % SEQUENCES, prompts[at])


def in_pieces(engine: LlamaCppEngine, prompts: Sequence[Sequence[int]], at: int) -> Logits:
    """The same, a few tokens per call."""
    engine.clear()
    rest = list(prompts[at])
    while len(rest) > PIECE:
        engine.decode([Run(0, rest[:PIECE])])
        rest = rest[PIECE:]
    return _last(engine, 0, rest)


def in_small_calls(engine: LlamaCppEngine, prompts: Sequence[Sequence[int]], at: int) -> Logits:
    """With the other prompts, cut so that every call has fewer than ``TILED`` tokens."""
    return _together(engine, prompts, at, (TILED - 1) // SEQUENCES)


def in_large_calls(engine: LlamaCppEngine, prompts: Sequence[Sequence[int]], at: int) -> Logits:
    """With the other prompts whole, in one call."""
    return _together(engine, prompts, at, max(map(len, prompts)))


def out_of_order(engine: LlamaCppEngine, prompts: Sequence[Sequence[int]], at: int) -> Logits:
    """In pieces, the first half of the prompt behind a sequence that goes away: the rest gets its places."""
    engine.clear()
    prompt = list(prompts[at])
    half = len(prompt) // 2
    for seq, tokens in ((1, prompt), (0, prompt[:half])):
        for start in range(0, len(tokens), PIECE):
            engine.decode([Run(seq, tokens[start : start + PIECE])])
    engine.drop(1)
    for start in range(half, len(prompt) - PIECE, PIECE):
        engine.decode([Run(0, prompt[start : start + PIECE])])
        half = start + PIECE
    return _last(engine, 0, prompt[half:])


CASES: Final[dict[str, Case]] = {
    f"in pieces of {PIECE}": in_pieces,
    f"with 7 others, < {TILED} a call": in_small_calls,
    f"with 7 others, >= {TILED} a call": in_large_calls,
    "its places out of order": out_of_order,
}


def _last(engine: LlamaCppEngine, seq: int, tokens: Sequence[int]) -> Logits:
    logits: Logits = engine.decode([Run(seq, tokens, (len(tokens) - 1,))])[0].copy()
    return logits


def _together(engine: LlamaCppEngine, prompts: Sequence[Sequence[int]], at: int, count: int) -> Logits:
    """The prompts from ``at`` on, a sequence each, ``count`` tokens of each per call."""
    engine.clear()
    rest = [list(prompts[(at + seq) % len(prompts)]) for seq in range(SEQUENCES)]
    while True:
        runs = [Run(seq, tokens[:count]) for seq, tokens in enumerate(rest) if tokens]
        if len(rest[0]) <= count:
            runs[0] = Run(0, rest[0], (len(rest[0]) - 1,))
            logits: Logits = engine.decode(runs)[0].copy()
            return logits
        engine.decode(runs)
        rest = [tokens[count:] for tokens in rest]


def logit_rows(path: Path, texts: Sequence[str], threads: int) -> list[list[str]]:
    """For short and long prompts, per case: largest difference of a logit, and prompts with the same bits."""
    bundle = Bundle.open(path)
    options = LlamaCppOptions(n_ctx=1024, n_kv=8192, n_seq_max=SEQUENCES, threads=threads)
    engine = LlamaCppEngine.open(bundle.artifact, options)
    rows = []
    for kind, asked in (("under 64", texts), ("64 and more", [" ".join([text] * 8) for text in texts])):
        prompts = [engine.tokenize(text, special=False) for text in asked]
        prompts = [ids for ids in prompts if (len(ids) >= TILED) == (kind != "under 64") and len(ids) > 1]
        base = [alone(engine, prompts, at) for at in range(len(prompts))]
        cells = []
        for case in CASES.values():
            found = [case(engine, prompts, at) for at in range(len(prompts))]
            largest = max(float(np.abs(one - two).max()) for one, two in zip(base, found, strict=True))
            same = sum(map(np.array_equal, base, found))
            cells.append("same bits" if same == len(base) else f"{largest:.1e} ({same} of {len(base)} same)")
        rows.append([bundle.manifest.quantization or "?", kind, *cells])
    engine.close()
    return rows


def answer_row(path: Path, texts: Sequence[str], threads: int) -> list[str]:
    """Whole answers: how many are those of ``exact=True``, one by one, in the other ways of asking."""
    with edgekit.load(path, exact=True, threads=threads) as model:
        exact = [model.extract(text).text for text in texts]
        again = [model.extract(text).text for text in reversed(texts)][::-1]
    with edgekit.load(path, threads=threads) as model:
        single = [model.extract(text).text for text in texts]
        with ThreadPoolExecutor(SEQUENCES) as workers:
            threaded = [found.text for found in workers.map(model.extract, texts)]
        many = [found.text for found in model.extract_many(texts)]
        repeated = [found.text for found in model.extract_many(texts)]

    def share(one: Sequence[str], other: Sequence[str]) -> str:
        return f"{sum(a == b for a, b in zip(one, other, strict=True)) / len(one):.1%}"

    quantization = Bundle.open(path).manifest.quantization or "?"
    return [
        quantization,
        share(exact, again),
        share(exact, single),
        share(exact, threaded),
        share(exact, many),
        share(many, repeated),
    ]


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--task", type=click.Path(exists=True, path_type=Path), default=TASK, show_default=True)
@click.option("--threads", default=0, help="Default: as the model is loaded without saying.")
def main(bundles: tuple[Path, ...], task: Path, threads: int) -> None:
    """Compare logits and answers of BUNDLES alone and in company, as two Markdown tables."""
    texts = [json.loads(line)["text"] for line in task.read_text().splitlines()]
    logits = [row for path in bundles for row in logit_rows(path, texts[:40], threads)]
    sys.stdout.write(table(["weights", "prompt's tokens", *CASES], logits) + "\n\n")
    answers = [answer_row(path, texts, threads) for path in bundles]
    header = [
        "weights",
        "exact, other order",
        "extract()",
        "extract(), 8 threads",
        "extract_many()",
        "extract_many() twice",
    ]
    sys.stdout.write(table(header, answers) + "\n")


if __name__ == "__main__":
    main()
