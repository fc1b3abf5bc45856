"""What collecting an importance matrix costs, against reading the same tokens without.

    python -m tests.benchmarks.importance dist/restaurant-q8_0/model.gguf text.txt

Both sides by turns in one process, on the same weights' file, with the same calls. Plain reading wants the logits of
each chunk's last token only, as a prompt does: the cheapest that llama.cpp offers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

import click

from edgekit import importance_data
from edgekit.importance_data import Data
from edgekit.runtimes import activations
from edgekit.runtimes.activations import LEAST_BATCH, LOGITS, MOST_BATCH, Collector, groups
from edgekit.runtimes.engine import Run
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions
from tests.benchmarks.report import table

Chunks = Sequence[Sequence[int]]


def plain(engine: LlamaCppEngine, chunks: Chunks, batch: int) -> None:
    """A prompt's way: one row of logits a chunk."""
    for group in groups(chunks, batch, activations.MOST_SEQUENCES):
        engine.clear()
        engine.decode([Run(seq, one, (len(one) - 1,)) for seq, one in enumerate(group)])


def collecting(engine: LlamaCppEngine, chunks: Chunks, batch: int, collector: Collector) -> None:
    """The way of ``activations.collect``."""
    for group in groups(chunks, batch, activations.MOST_SEQUENCES):
        engine.clear()
        for runs in activations.calls(group, batch):
            engine.decode(runs)
            if collector.failure is not None:
                raise collector.failure
            collector.learn_last()


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the wall and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("text", type=click.Path(path_type=Path))
@click.option("--chunk", default=512)
@click.option("--chunks", default=16)
@click.option("--threads", default=2)
@click.option("--pairs", default=9)
def main(model: Path, text: Path, chunk: int, chunks: int, threads: int, pairs: int) -> None:
    """Print a markdown table of medians over ``pairs`` turns."""
    with closing(LlamaCppEngine(model, vocab_only=True)) as words:
        found = importance_data.sequences(Data(str(text), text.read_text()), words, chunk, chunks)
        batch = min(MOST_BATCH, max(LEAST_BATCH, LOGITS // words.n_vocab))
    collector = Collector()

    def opened(on_node: object = None) -> LlamaCppEngine:
        options = LlamaCppOptions(
            n_ctx=chunk, n_seq_max=min(activations.MOST_SEQUENCES, len(found)), n_kv=max(chunk, batch),
            n_batch=batch, n_outputs=batch, threads=threads, on_node=on_node,
        )  # fmt: skip
        return LlamaCppEngine(model, options)

    with closing(opened()) as one, closing(opened(collector.callback)) as other:
        turns = []
        for _ in range(pairs + 1):
            ours = timed(lambda: collecting(other, found, batch, collector))
            turns.append((timed(lambda: plain(one, found, batch)), ours))
    del turns[0]  # the warm-up
    count = sum(map(len, found))
    rows = [
        [
            what,
            f"{count / median(bare[at] for bare, _ in turns):,.0f}",
            f"{count / median(ours[at] for _, ours in turns):,.0f}",
            f"{median(ours[at] / bare[at] for bare, ours in turns):.3f}",
        ]
        for at, what in enumerate(("wall clock", "processor"))
    ]
    click.echo(table([f"{count:,} tokens, {pairs} pairs", "plain, tok/s", "collecting, tok/s", "cost"], rows))


if __name__ == "__main__":
    main()
