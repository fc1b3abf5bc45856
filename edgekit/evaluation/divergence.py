"""Perplexity and KL divergence from rows of logits, in float32 blocks that stay in a processor's cache.

The definitions are those of llama.cpp's perplexity tool; its 16-bit copy of the reference's probabilities isn't made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Column = NDArray[np.float64]

_BLOCK: Final = 1 << 16
"""Logits of a block; its buffers take 4 times 256 KiB."""


@dataclass(frozen=True)
class Compared:
    """One model at each position, beside the reference where there is one: ``(positions,)`` arrays."""

    nll: Column
    """Negative log-likelihood of the token that comes, in nats."""
    top: NDArray[np.intp]
    """The likeliest token."""
    kld: Column
    """Sum over the vocabulary of p_ref (log p_ref - log p), in nats; 0 without a reference."""


class NotFinite(Exception):
    """Logits that are NaN or infinite: of which model (0 is the first), in which row, and what was found."""

    def __init__(self, model: int, row: int, value: float) -> None:
        super().__init__(model, row, value)
        self.model, self.row, self.value = model, row, value


class Comparer:
    """Compares models over one vocabulary; its buffers are used again for every block."""

    def __init__(self, n_vocab: int) -> None:
        self._rows = max(1, _BLOCK // n_vocab)
        buffers = (np.empty((self._rows, n_vocab), np.float32) for _ in range(4))
        self._ours, self._weights, self._theirs, self._work = buffers

    def compare(self, logits: Sequence[Floats], targets: NDArray[np.intp]) -> list[Compared]:
        """How likely each model finds ``targets`` ``(positions,)``, and its divergence to the first, 0 for itself.

        ``logits``: ``(positions, n_vocab)`` of each model. Raises ``NotFinite``.
        """
        count = len(targets)
        nll, kld = np.empty((len(logits), count)), np.zeros((len(logits), count))
        top = np.empty((len(logits), count), np.intp)
        for start in range(0, count, self._rows):
            part = slice(start, min(start + self._rows, count))
            ours, weights = self._ours[: part.stop - start], self._weights[: part.stop - start]
            theirs, work = self._theirs[: part.stop - start], self._work[: part.stop - start]
            top[0, part], sums = _normalize(0, start, logits[0][part], ours, weights)
            logs = np.log(sums)
            nll[0, part] = logs - _picked(ours, targets[part])
            for model in range(1, len(logits)):
                top[model, part], own = _normalize(model, start, logits[model][part], theirs, work)
                nll[model, part] = np.log(own) - _picked(theirs, targets[part])
                gaps = np.subtract(ours, theirs, out=work)
                kld[model, part] = np.vecdot(weights, gaps) / sums + np.log(own) - logs
        return [Compared(*one) for one in zip(nll, top, kld, strict=True)]


def _normalize(
    model: int, start: int, logits: Floats, shifted: Floats, weights: Floats
) -> tuple[NDArray[np.intp], Column]:
    """Logits less each row's largest, and the exponentials of these; where the largest are, and the exponentials' sums."""
    top = logits.argmax(1)
    most, least = logits[np.arange(len(logits)), top], logits.min(1)  # NaN is the largest and the least
    with np.errstate(over="ignore", invalid="ignore"):
        sound = np.isfinite(least - most)  # nor may their distance be beyond float32
    if not sound.all():
        row = int(sound.argmin())
        value = least[row] if np.isfinite(most[row]) else most[row]
        raise NotFinite(model, start + row, float(value))
    np.subtract(logits, most[:, None], out=shifted)
    np.exp(shifted, out=weights)
    return top, weights.sum(1, dtype=np.float64)


def _picked(shifted: Floats, targets: NDArray[np.intp]) -> Column:
    picked: Column = shifted[np.arange(len(targets)), targets].astype(np.float64)
    return picked
