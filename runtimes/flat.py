"""Runs laid out flat, one entry per token, checked before an engine sees them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.errors import InputError
from edgekit.runtimes.engine import Run


class Plan:
    """Checked runs laid out flat, one entry per token."""

    def __init__(self, runs: Sequence[Run], lengths: Sequence[int], n_ctx: int, n_vocab: int) -> None:
        """Lay ``runs`` out after what ``lengths`` says each sequence holds already.

        Raises ``InputError`` for an unknown sequence or token and where a sequence would outgrow ``n_ctx``.
        """
        # Lists, not arrays: a step has a few dozen tokens, and each of numpy's calls costs as much as ten of them.
        self.token: list[int] = []
        self.pos: list[int] = []
        self.seq: list[int] = []
        self.starts: list[int] = []
        """Where each run begins."""
        results: list[int] = []  # entry of each wanted position, in the order asked
        self.lengths: dict[int, int] = {}
        """What each touched sequence holds afterwards."""
        for run in runs:
            start, count = self._reserve(run, lengths, n_ctx)
            at = len(self.token)
            self.starts.append(at)
            self.token += run.tokens
            self.pos += range(start, start + count)
            self.seq += [run.seq] * count
            results += [at + index for index in run.want]
        self.entries = sorted(set(results))
        """Wanted positions, in order."""
        self.in_order = self.entries == results
        self.order = [] if self.in_order else np.searchsorted(self.entries, results).tolist()
        """For each wanted position, the row of its entry among those that are computed, unless ``in_order``."""
        if self.token and not (min(self.token) >= 0 and max(self.token) < n_vocab):
            raise InputError("a token id is outside the vocabulary", expected=f"0 to {n_vocab - 1}")

    def _reserve(self, run: Run, lengths: Sequence[int], n_ctx: int) -> tuple[int, int]:
        """Check one run; its first position and its number of tokens."""
        count = len(run.tokens)
        check_seq(run.seq, len(lengths))
        if any(not 0 <= index < count for index in run.want):
            raise InputError("logits wanted outside the run", found=list(run.want), expected=f"below {count}")
        start = self.lengths.get(run.seq, lengths[run.seq])
        if start + count > n_ctx:
            raise InputError(
                "the sequence would outgrow the context",
                found=f"{start} tokens there and {count} more",
                expected=f"at most {n_ctx}",
                next_step="shorten the prompt, or open the model with a larger n_ctx",
            )
        self.lengths[run.seq] = start + count
        return start, count

    def spans(self, size: int, outputs: int, apart: bool = False) -> list[tuple[int, int]]:
        """Cut points so that no call has more than ``size`` tokens or ``outputs`` wanted positions; or than one run."""
        total = len(self.token)
        apart = apart and len(self.starts) > 1
        if total <= size and len(self.entries) <= outputs and not apart:
            return [(0, total)] if total else []
        spans: list[tuple[int, int]] = []
        start = before = 0
        while start < total:
            # The position that would be one too many is where the next call begins.
            room = self.entries[before + outputs] if before + outputs < len(self.entries) else total
            run = bisect_right(self.starts, start) if apart else len(self.starts)
            stop = min(start + size, room, self.starts[run] if run < len(self.starts) else total)
            spans.append((start, stop))
            start = stop
            before = bisect_left(self.entries, start)
        return spans


def check_seq(seq: int, n_seq_max: int) -> None:
    """Raise ``InputError`` for a sequence that the engine was not opened with."""
    if not 0 <= seq < n_seq_max:
        raise InputError("no such sequence", found=seq, expected=f"0 to {n_seq_max - 1}")


def check_options(options: Mapping[str, tuple[int, int, int]]) -> None:
    """Raise ``InputError`` for a ``name: (value, low, high)`` that a runtime would answer with an abort."""
    for name, (value, low, high) in options.items():
        if not (isinstance(value, int) and low <= value <= high):
            raise InputError(f"{name} is out of range", found=value, expected=f"{low} to {high}")
