"""From logits to a token, in numpy; the same seed gives the same tokens on every machine.

Order of operations, as in llama.cpp's default chain: repetition penalty, top-k, top-p, min-p, temperature, draw.
Top-p and min-p therefore look at the probabilities before the temperature bends them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.runtimes.engine import Logits

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the default is greedy, the most likely one."""

    temperature: float = 0.0
    """0 is greedy; then only the repetition penalty has a say beside the logits."""
    top_k: int = 0
    """Keep the k most likely; 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest tokens whose probabilities reach this sum; 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this likely, relative to the most likely one."""
    seed: int | None = None
    """Unset: a new one for each call."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens among the last ``repetition_window`` less likely."""
    repetition_window: int = 64

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float, float]] = {
            "temperature": (self.temperature, 0.0, 100.0),
            "top_k": (self.top_k, 0, 2**31),
            "top_p": (self.top_p, 0.0, 1.0),
            "min_p": (self.min_p, 0.0, 1.0),
            "repetition_penalty": (self.repetition_penalty, 0.01, 100.0),
            "repetition_window": (self.repetition_window, 0, 2**31),
        }
        for name, (value, low, high) in bounds.items():
            if not (isinstance(value, int | float) and math.isfinite(value) and low <= value <= high):
                raise InputError(f"{name} is out of range", found=value, expected=f"{low:g} to {high:g}")
        if self.top_p == 0.0:
            raise InputError("top_p is out of range", found=self.top_p, expected="above 0, up to 1")


GREEDY: Final = Sampling()
LIKELY: Final = 2.0**-12
"""Tokens so likely, relative to the likeliest one, are looked at first: few, and nearly always enough."""


class Sampler:
    """Chooses tokens for one answer; holds the random state."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self.window = sampling.repetition_window
        self._penalised = sampling.repetition_penalty != 1.0 and sampling.repetition_window > 0
        self._greedy = sampling.temperature == 0.0
        if not self._greedy:
            # The standard library promises the same random() for the same seed in every version; numpy doesn't.
            self._random = random.Random(sampling.seed)

    def pick(self, logits: Logits, recent: Sequence[int]) -> int:
        """The next token for ``logits`` ``(n_vocab,)``, which are not changed; ``recent`` is what came before.

        A logit of minus infinity is never chosen.
        """
        if self._penalised:
            logits = self._penalise(logits, recent)
        if self._greedy:
            return int(logits.argmax())
        ids, probabilities = self._candidates(logits)
        sums = np.cumsum(probabilities)
        at = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        return int(ids[min(at, len(ids) - 1)])

    def _penalise(self, logits: Logits, recent: Sequence[int]) -> Logits:
        window = recent[-self._sampling.repetition_window :]
        if not window:
            return logits
        ids = np.unique(np.asarray(window, np.int64))
        found = logits[ids]
        penalty = np.float32(self._sampling.repetition_penalty)
        logits = logits.copy()
        logits[ids] = np.where(found > 0, found / penalty, found * penalty)
        return logits

    def _candidates(self, logits: Logits) -> tuple[Ids, NDArray[np.float64]]:
        """Ids that survive top-k, top-p and min-p, with their weights at the temperature; nothing is sorted needlessly."""
        options = self._sampling
        ids, values = _most(logits, options.top_k)
        top = float(values.max(initial=-np.inf))
        if top == -np.inf:
            raise InputError("no token is possible: every logit is minus infinity")
        below = values - np.float32(top)
        kept = below > -np.inf
        if options.top_p < 1.0 or options.min_p > 0.0:
            weights = np.exp(below)
            if options.top_p < 1.0:
                kept = _nucleus(weights, options.top_p)
            if options.min_p > 0.0:
                kept &= weights >= options.min_p
        return ids[kept], np.exp(below[kept].astype(np.float64) / options.temperature)


def _most(logits: Logits, top_k: int) -> tuple[Ids, Logits]:
    """Token ids of the ``top_k`` highest logits, and these; equal ones by id, and all where it is 0."""
    if not 0 < top_k < len(logits):
        return np.arange(len(logits)), logits
    border = np.partition(logits, len(logits) - top_k)[len(logits) - top_k]
    ids = np.flatnonzero(logits >= border)
    ids = ids[np.argsort(-logits[ids], kind="stable")][:top_k]
    return ids, logits[ids]


def _nucleus(weights: Logits, top_p: float) -> NDArray[np.bool_]:
    """Which are the fewest of ``weights`` ``(n,)``, the highest of them 1, that reach this part of their sum.

    Only around the border does their order matter: the sums of coarse classes show where that is.
    """
    goal = top_p * float(weights.sum(dtype=np.float64))
    ids = np.flatnonzero(weights >= LIKELY)
    some = weights[ids]
    if float(some.sum(dtype=np.float64)) < goal:  # as seldom as a model that knows next to nothing
        ids, some = np.arange(len(weights)), weights
    # A float's first bits, its exponent and the beginning of its fraction, are in the order of what it stands for.
    classes = some.view(np.uint32) >> np.uint32(18)
    sums = np.cumsum(np.bincount(classes, some)[::-1])
    border = max(0, len(sums) - 1 - int(np.searchsorted(sums, goal, side="left")))
    above = classes > border
    missing = goal - float(some[above].sum(dtype=np.float64))
    there = np.flatnonzero(classes == border)
    there = there[np.argsort(-some[there], kind="stable")]
    count = int(np.searchsorted(np.cumsum(some[there], dtype=np.float64), missing, side="left")) + 1
    above[there[:count]] = True
    kept = np.zeros(len(weights), np.bool_)
    kept[ids[above]] = True
    return kept
