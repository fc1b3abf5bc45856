"""A text's perplexity under a model, and how far its probabilities are from a reference's: a chunk at a time.

Chunks, and what is scored in them, are those of llama.cpp's perplexity tool: consecutive parts of the text, each with bos
in place of its first token, the second half scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from edgekit.errors import BundleError, InputError
from edgekit.evaluation.divergence import Column, Compared, Comparer, NotFinite
from edgekit.evaluation.unsound import not_finite
from edgekit.files import read_bounded

if TYPE_CHECKING:
    from edgekit.runtimes.engine import Engine

_LIMIT: Final = 1 << 30
LEAST_CHUNK: Final = 8
"""Tokens of a chunk at least: of fewer hardly any are scored."""


class Mean(msgspec.Struct, frozen=True):
    """A mean over positions and its standard error."""

    value: float
    error: float


class Divergence(msgspec.Struct, frozen=True):
    """A candidate beside the reference: KL divergence in nats, changes of the right token's probability of 1."""

    kld: Mean
    kld_median: float
    kld_p90: float
    kld_p99: float
    kld_p999: float
    kld_max: float
    same_top: Mean
    dp_mean: Mean
    dp_rms: Mean
    dp_max: float
    """The largest change either way."""
    ppl_ratio: Mean


class TextFigures(msgspec.Struct, frozen=True):
    """What a text says of one model."""

    chunk: int
    chunks: int
    positions: int
    """Tokens that were scored."""
    ppl: Mean
    reference: Divergence | None = None


def read_plain(path: Path) -> str:
    """A UTF-8 text without the line end at its end, as llama.cpp reads one."""
    try:
        return read_bounded(path, _LIMIT).decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", path=path, found=str(error)) from error


def tokens_of(engine: Engine, text: str) -> tuple[list[int], int | None]:
    """The text's tokens, after bos where texts of this model start with one; and that bos."""
    bos = engine.specials.get(engine.bos_token) if engine.add_bos else None
    return ([] if bos is None else [bos]) + engine.tokenize(text, special=False), bos


def cut(tokens: Sequence[int], bos: int | None, chunk: int, most: int | None, path: Path) -> list[list[int]]:
    """The text's whole chunks, ``most`` at most; ``InputError`` for a text shorter than one."""
    if chunk < LEAST_CHUNK:
        raise InputError("a chunk is too short", found=f"{chunk} tokens", expected=f"at least {LEAST_CHUNK}")
    count = len(tokens) // chunk
    if not count:
        raise InputError(
            "the text is shorter than one chunk",
            path=path,
            found=f"{len(tokens):,} tokens",
            expected=f"at least {chunk:,}",
            next_step="take a longer text, or smaller chunks with --ctx",
        )
    chunks = [list(tokens[at * chunk : (at + 1) * chunk]) for at in range(min(count, most or count))]
    if bos is not None:
        for one in chunks:
            one[0] = bos
    return chunks


def measure(
    engines: Sequence[tuple[str, Engine]], chunks: Sequence[Sequence[int]], advance: Callable[[int], None]
) -> list[TextFigures]:
    """Let the engines, by name, read the chunks side by side; the figures of each, beside the first's but its own.

    ``advance`` hears of every chunk. Memory: a piece of a chunk's logits for each engine. Raises ``BundleError``
    that names the chunk where logits are not finite.
    """
    from edgekit.runtimes.chunks import side_by_side

    first, comparer = len(chunks[0]) // 2, Comparer(engines[0][1].n_vocab)
    found: list[list[Compared]] = [[] for _ in engines]
    for number, tokens in enumerate(chunks):
        ids = np.asarray(tokens, np.intp)
        for at, rows in side_by_side([engine for _, engine in engines], tokens, first):
            try:
                compared = comparer.compare(rows, ids[at + 1 : at + 1 + len(rows[0])])
            except NotFinite as error:
                raise _not_finite(error, engines[error.model][0], number, at) from None
            for parts, part in zip(found, compared, strict=True):
                parts.append(part)
        advance(number)
    joined = [_joined(parts) for parts in found]
    size = len(chunks[0]), len(chunks)
    return [figures(joined[0], None, *size), *(figures(one, joined[0], *size) for one in joined[1:])]


def _not_finite(error: NotFinite, name: str, chunk: int, at: int) -> BundleError:
    return not_finite(Path(name), f"{error.value} in chunk {chunk + 1}, after token {at + error.row + 1}")


def _joined(parts: Sequence[Compared]) -> Compared:
    return Compared(
        np.concatenate([part.nll for part in parts]),
        np.concatenate([part.top for part in parts]),
        np.concatenate([part.kld for part in parts]),
    )


def figures(one: Compared, reference: Compared | None, chunk: int, chunks: int) -> TextFigures:
    """The figures of all positions, with the tool's definitions of each error."""
    log_ppl = mean(one.nll)
    ppl = _exp(log_ppl.value)
    return TextFigures(
        chunk=chunk,
        chunks=chunks,
        positions=len(one.nll),
        ppl=Mean(ppl, ppl * log_ppl.error),
        reference=None if reference is None else _divergence(one, reference),
    )


def _divergence(one: Compared, reference: Compared) -> Divergence:
    median, p90, p99, p999, most = map(float, np.quantile(one.kld, [0.5, 0.9, 0.99, 0.999, 1]))
    change = np.exp(-one.nll) - np.exp(-reference.nll)
    square = mean(change**2)
    rms = math.sqrt(square.value)
    same = float((one.top == reference.top).mean())
    gap = mean(one.nll - reference.nll)
    ratio = _exp(gap.value)
    return Divergence(
        kld=mean(one.kld),
        kld_median=median,
        kld_p90=p90,
        kld_p99=p99,
        kld_p999=p999,
        kld_max=most,
        same_top=Mean(same, math.sqrt(same * (1 - same) / max(1, len(change) - 1))),
        dp_mean=mean(change),
        dp_rms=Mean(rms, 0.5 / rms * square.error if rms else 0.0),
        dp_max=float(np.abs(change).max()),
        ppl_ratio=Mean(ratio, ratio * gap.error),
    )


def _exp(value: float) -> float:
    """The exponential; of a model that is lost altogether a number that JSON has, too."""
    return math.exp(min(value, 600.0))


def mean(column: Column) -> Mean:
    """The mean and its standard error, which for paired values is that of their difference."""
    return Mean(float(column.mean()), float(column.std() / math.sqrt(max(1, len(column) - 1))))
