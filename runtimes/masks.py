"""Masks of a whole batch at once, and the best allowed token of each row with its probability.

A mask mostly allows a handful of tokens (a number, a choice) or nearly all of them (within a string); so the few
that differ are looked up one by one, and only the rest goes over every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.runtimes.constraint import BIAS, Matcher, Vocabulary

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Words = NDArray[np.uint32]

FEW: Final = 128
"""One token in so many counts as few: looking one up costs that of passing over dozens."""
BLOCK: Final = 1 << 16
"""Logits worked on at a time: half a megabyte stays in the cache between one pass and the next."""


@dataclass(frozen=True)
class Best:
    """For each row the likeliest allowed token, and natural logarithms of probabilities among the allowed ones."""

    ids: Ids
    logprobs: Doubles
    """Of that token."""
    runner_up: Doubles
    """Of the best other one; minus infinity where there is none."""

    def put(self, at: Ids, ids: Ids, logprobs: Doubles, runner_up: Doubles) -> None:
        """Fill in some rows."""
        self.ids[at], self.logprobs[at], self.runner_up[at] = ids, logprobs, runner_up


class MaskBatch:
    """Room for the masks of ``n_rows`` answers; made once, used for every step, by one thread at a time."""

    def __init__(self, n_rows: int, vocabulary: Vocabulary) -> None:
        self.n_rows, self.size = n_rows, vocabulary.size
        n_words = (self.size + 31) // 32
        # A whole number of 64-bit words, which are counted and searched faster; the padding stays 0.
        self._padded: Words = np.zeros((n_rows, n_words + n_words % 2), np.uint32)
        self.bits: Words = self._padded[:, :n_words]
        """``(n_rows, words)``: a bit per token, lowest first, of what ``compute`` found."""
        self._all: Words = np.zeros(self._padded.shape[1], np.uint32)
        self._all[:n_words] = 0xFFFFFFFF
        if self.size % 32:
            self._all[n_words - 1] = (1 << self.size % 32) - 1
        self._block = max(1, min(n_rows, BLOCK // self.size))
        self._work: Floats = np.empty((self._block, self._padded.shape[1] * 32), np.float32)
        self._address, self._stride = self._padded.ctypes.data, self._padded.strides[0]
        self._nbytes = n_words * 4
        self._counts: Ids = np.zeros(0, np.int64)

    def compute(self, matchers: Sequence[Matcher | None]) -> None:
        """Fill row after row; ``None`` allows every token. Raises ``InputError`` where no token is allowed."""
        if len(matchers) > self.n_rows:
            raise InputError(
                "more rows than the batch has room for", found=len(matchers), expected=self.n_rows
            )
        self._counts = self._counts[:0]
        address, nbytes = self._address, self._nbytes
        for row, matcher in enumerate(matchers):
            if matcher is None:
                self._padded[row] = self._all
            else:
                # llguidance lets other threads run meanwhile; its own pool of threads costs what it saves.
                raw = matcher.raw
                raw.unsafe_compute_mask_ptr(address + row * self._stride, nbytes)
                if raw.is_error():
                    matcher.check()
        counts = np.bitwise_count(self._padded[: len(matchers)].view(np.uint64)).sum(axis=1, dtype=np.int64)
        if not counts.all():
            raise InputError("the grammar allows no token here")
        self._counts = counts

    def best(self, logits: Floats) -> Best:
        """The likeliest allowed token of each row, the first of equals, and how sure that is.

        ``logits`` is ``(rows, n_vocab)``, rows as in the last ``compute``, and is not changed. Raises ``InputError``
        where every allowed logit is minus infinity, or one is NaN or infinite.
        """
        rows = len(self._counts)
        if logits.shape != (rows, self.size):
            raise InputError("logits don't fit the masks", found=logits.shape, expected=(rows, self.size))
        few = self._counts * FEW <= self.size
        found = Best(np.empty(rows, np.int64), np.empty(rows), np.empty(rows))
        # What is not a number is found in the result.
        with np.errstate(invalid="ignore", divide="ignore"):
            if few.any():
                at = np.flatnonzero(few)
                found.put(at, *_among_few(self._padded, at, logits))
            many = np.flatnonzero(~few)
            for start in range(0, len(many), self._block):
                at = many[start : start + self._block]
                found.put(at, *self._among_many(at, logits))
        if not np.isfinite(found.logprobs).all():
            raise InputError("the model's logits are not numbers, or leave no allowed token possible")
        return found

    def _among_many(self, at: Ids, logits: Floats) -> tuple[Ids, Doubles, Doubles]:
        """Passes over every token of a block of rows, with the forbidden ones at minus infinity."""
        n = np.arange(len(at))
        work = self._work[: len(at)]
        masked = work[:, : self.size]
        part = logits[at[0] : at[0] + 1] if len(at) == 1 else logits[at]
        bits = self._padded[at]
        counts = self._counts[at]
        ids = part.argmax(axis=1)
        if int(counts.min()) * FEW >= self.size * (FEW - 1):
            np.subtract(part, part[n, ids][:, None], out=masked)
            if counts.min() < self.size:
                masked[_positions(bits ^ self._all)] = -np.inf
        else:
            np.take(BIAS, bits.view(np.uint8), axis=0, out=work.reshape(len(at), -1, 8), mode="clip")
            np.add(masked, part, out=masked)
            np.subtract(masked, part[n, ids][:, None], out=masked)
        forbidden = np.flatnonzero((bits[n, ids >> 5] >> (ids & 31).astype(np.uint32)) & 1 == 0)
        for row in forbidden.tolist():
            # The model's favourite isn't allowed: only now is a search among the allowed needed.
            ids[row] = masked[row].argmax()
            masked[row] -= masked[row, ids[row]]
        masked[n, ids] = -np.inf
        second = masked.max(axis=1).astype(np.float64)
        np.exp(masked, out=masked)
        logprobs = -np.log1p(masked.sum(axis=1).astype(np.float64))
        return ids, logprobs, second + logprobs


def _among_few(bits: Words, at: Ids, logits: Floats) -> tuple[Ids, Doubles, Doubles]:
    """Looks at the allowed tokens alone; every row has at least one."""
    rows, tokens = _positions(bits[at])
    values = logits[at[rows], tokens].astype(np.float64)
    starts = np.searchsorted(rows, np.arange(len(at)))
    below = values - np.maximum.reduceat(values, starts)[rows]
    # From the last to the first, so that the first of equals stays.
    ids = np.zeros(len(at), np.int64)
    highest = np.flatnonzero(below == 0)[::-1]
    ids[rows[highest]] = tokens[highest]
    logprobs = -np.log(np.add.reduceat(np.exp(below), starts))
    below[tokens == ids[rows]] = -np.inf
    return ids, logprobs, np.maximum.reduceat(below, starts) + logprobs


def _positions(bits: Words) -> tuple[Ids, Ids]:
    """Row and column of every set bit, in order."""
    wide = bits.view(np.uint64)
    flat = wide.reshape(-1)
    words = np.flatnonzero(flat)
    at = np.flatnonzero(np.unpackbits(flat[words].view(np.uint8), bitorder="little"))
    rows, columns = np.divmod(words[at >> 6], wide.shape[1])
    return rows, (columns << 6) + (at & 63)
