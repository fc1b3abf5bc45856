"""Engines that read the same text side by side: the logits of all of them, a piece of a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from edgekit.runtimes.engine import Engine, Logits, Run

TOKENS: Final = 512
"""Tokens of a piece: what an engine is given in one call."""
ROWS: Final = 256
"""Positions of a piece whose logits are wanted, at most: they bound the memory, at ``n_vocab`` floats each."""


@dataclass(frozen=True)
class Piece:
    """Positions ``start`` to ``stop`` of a chunk; logits are wanted from ``scored`` to ``last``."""

    start: int
    stop: int
    scored: int
    last: int


def pieces(length: int, first: int) -> list[Piece]:
    """Cut a chunk of ``length`` tokens, scored from ``first`` on; nothing comes after its last token to be scored."""
    found, start = [], 0
    while start < length:
        stop = min(start + TOKENS, length, max(start, first) + ROWS)
        found.append(Piece(start, stop, min(max(start, first), stop), min(stop, length - 1)))
        start = stop
    return found


def side_by_side(
    engines: Sequence[Engine], tokens: Sequence[int], first: int
) -> Iterator[tuple[int, list[Logits]]]:
    """Let each engine read one chunk from an empty cache.

    Yields the position of the first row, and each engine's logits ``(rows, n_vocab)``; they are valid until the next.
    """
    for engine in engines:
        engine.clear()
    for piece in pieces(len(tokens), first):
        want = range(piece.scored - piece.start, piece.last - piece.start)
        run = Run(0, tokens[piece.start : piece.stop], want)
        rows = [engine.decode([run]) for engine in engines]
        if want:
            yield piece.scored, rows
