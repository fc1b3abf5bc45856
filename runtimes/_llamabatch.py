"""llama.cpp's batch over numpy arrays of ours: allocated once, filled by slices."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtimes.flat import Plan

Ints = NDArray[np.int32]


class LlamaBatch:
    """Room for ``size`` tokens, one sequence each; ``struct`` is what ``llama_decode`` takes."""

    def __init__(self, lib: Any, size: int) -> None:
        self.size = size
        self.token: Ints = np.zeros(size, np.int32)
        self.pos: Ints = np.zeros(size, np.int32)
        self.seq: Ints = np.zeros(size, np.int32)
        self.wanted: NDArray[np.int8] = np.zeros(size, np.int8)
        self._one_each: Ints = np.ones(size, np.int32)
        # llama.cpp wants a pointer to each token's list of sequences: here a list of one each.
        self._seq_lists = (self.seq.ctypes.data + self.seq.itemsize * np.arange(size)).astype(np.uintp)
        self.struct = lib.llama_batch()
        types = dict(self.struct._fields_)
        for name, address in (
            ("token", self.token.ctypes.data),
            ("pos", self.pos.ctypes.data),
            ("n_seq_id", self._one_each.ctypes.data),
            ("seq_id", self._seq_lists.ctypes.data),
            ("logits", self.wanted.ctypes.data),
        ):
            setattr(self.struct, name, ctypes.cast(address, types[name]))

    def fill_one(self, token: int, position: int, seq: int, wanted: bool) -> None:
        """A single token: what a stream does for each piece of text."""
        self.token[0] = token
        self.pos[0] = position
        self.seq[0] = seq
        self.wanted[0] = wanted
        self.struct.n_tokens = 1

    def fill(self, plan: Plan, start: int, stop: int, wanted: Sequence[int]) -> None:
        """Entries ``start`` to ``stop`` of a plan, at most ``size`` of them; logits of those that are ``wanted``."""
        count = stop - start
        self.token[:count] = plan.token[start:stop]
        self.pos[:count] = plan.pos[start:stop]
        self.seq[:count] = plan.seq[start:stop]
        self.wanted[:count] = 0
        self.wanted[[entry - start for entry in wanted]] = 1
        self.struct.n_tokens = count
