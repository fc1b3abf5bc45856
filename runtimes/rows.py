"""Engines whose keys and values lie in one block per sequence: a prompt of one at a time, one token of many in a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.runtimes.engine import Logits, Run
from edgekit.runtimes.flat import Plan, check_options, check_seq
from edgekit.runtimes.words import Words

DEFAULT_CONTEXT: Final = 4096


@dataclass(frozen=True)
class RowsOptions:
    """How a model is opened; zeros and None mean "work it out"."""

    n_ctx: int | None = None
    """Tokens per sequence; unset: what the model was trained with, at most 4096."""
    n_seq_max: int = 1
    threads: int = 0
    """Unset: the physical cores that this process may use."""

    def __post_init__(self) -> None:
        check_options(
            {
                "n_ctx": (self.n_ctx or 0, 0, 2**24),
                "n_seq_max": (self.n_seq_max, 1, 256),
                "threads": (self.threads, 0, 512),
            }
        )

    def context(self, most: int, folder: Path) -> int:
        """Tokens per sequence of a model that takes ``most``; ``InputError`` for more."""
        found = self.n_ctx or min(most, DEFAULT_CONTEXT)
        if found > most:
            raise InputError(
                "the context is longer than the model's", path=folder, found=found, expected=f"at most {most}"
            )
        return found


class Graph(Protocol):
    """What computes: a model with room for the keys and values of so many sequences."""

    chunk: int
    """Tokens of a prompt in one call at most."""

    def run(self, first: int, ids: NDArray[np.int64], lengths: Sequence[int]) -> Logits:
        """Append ``ids`` ``(rows, tokens)`` to sequences ``first`` on, which hold ``lengths``; logits of every token.

        The result ``(rows, tokens, n_vocab)`` is valid until the next call. Several rows take one token each.
        """
        ...

    def step(self, seq: int, token: int, length: int) -> Logits:
        """Append one token to a sequence that holds ``length``; its logits ``(1, n_vocab)``, valid until the next call."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Keys and values of the first ``length`` tokens."""
        ...


class RowsEngine:
    """The seam over a graph; copying a prefix copies its keys and values."""

    def __init__(self, folder: Path, words: Words, n_vocab: int) -> None:
        self._folder, self._words = folder, words
        self._graph: Graph | None = None
        self._lengths: list[int] = []
        self._open = True
        self.n_vocab = n_vocab
        self.n_ctx = self.n_seq_max = self.n_kv = 0
        self.chat_template: str | None = words.chat_template
        self.eos_ids: frozenset[int] = words.eos_ids
        self.specials: Mapping[str, int] = words.specials
        self.bos_token, self.eos_token = words.bos_token, words.eos_token
        self.add_bos = words.add_bos

    def _compute(self, graph: Graph, n_ctx: int, n_seq_max: int) -> None:
        """Take what computes; until then there is only a vocabulary."""
        self.n_ctx, self.n_seq_max, self.n_kv = n_ctx, n_seq_max, n_ctx * n_seq_max
        self._graph, self._lengths = graph, [0] * n_seq_max

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids of ``text``, without bos; control tokens are recognised in it only if ``special``."""
        self._alive()
        return self._words.tokenize(text, special)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; empty for control tokens."""
        self._alive()
        return self._words.token_bytes(token)

    def decode(self, runs: Sequence[Run]) -> Logits:
        """Append each run and return logits ``(wanted, n_vocab)``, one row for each wanted position, in order.

        The rows are valid until the next call. After an error every sequence is as it was before the call.
        """
        graph = self._graph or self._alive_graph()
        if len(runs) == 1 and len(run := runs[0].tokens) == 1 and runs[0].want == (0,):
            seq, token = runs[0].seq, run[0]
            fits = 0 <= seq < self.n_seq_max and 0 <= token < self.n_vocab
            if fits and (length := self._lengths[seq]) < self.n_ctx:
                row = graph.step(seq, token, length)
                self._lengths[seq] = length + 1
                return row
        plan = Plan(runs, self._lengths, self.n_ctx, self.n_vocab)
        found = np.empty((len(plan.entries), self.n_vocab), np.float32)
        row_of = {entry: row for row, entry in enumerate(plan.entries)}
        of_seq: dict[int, list[int]] = {}
        for entry, seq in enumerate(plan.seq):
            of_seq.setdefault(seq, []).append(entry)
        single = sorted(seq for seq, entries in of_seq.items() if len(entries) == 1)
        if len(single) > 1:
            self._together(graph, plan, {seq: of_seq.pop(seq)[0] for seq in single}, row_of, found)
        for seq, entries in of_seq.items():
            self._alone(graph, plan, seq, entries, row_of, found)
        for seq, length in plan.lengths.items():
            self._lengths[seq] = length
        return found if plan.in_order else found[plan.order]

    def _together(
        self,
        graph: Graph,
        plan: Plan,
        entries: Mapping[int, int],
        row_of: Mapping[int, int],
        found: Logits,
    ) -> None:
        """One token of several sequences in one call; those that lie between take part, and keep nothing of it."""
        first, last = min(entries), max(entries)
        if any(self._lengths[seq] >= self.n_ctx for seq in range(first, last) if seq not in entries):
            for seq, entry in entries.items():  # one that lies between is full, and has no place to write to
                self._alone(graph, plan, seq, [entry], row_of, found)
            return
        ids = np.zeros((last - first + 1, 1), np.int64)
        for seq, entry in entries.items():
            ids[seq - first] = plan.token[entry]
        logits = graph.run(first, ids, self._lengths[first : last + 1])
        for seq, entry in entries.items():
            if (row := row_of.get(entry)) is not None:
                found[row] = logits[seq - first, 0]

    def _alone(
        self,
        graph: Graph,
        plan: Plan,
        seq: int,
        entries: Sequence[int],
        row_of: Mapping[int, int],
        found: Logits,
    ) -> None:
        """A part of a prompt, or several tokens: the graph takes them of one sequence at a time."""
        length = self._lengths[seq]
        for start in range(0, len(entries), graph.chunk):
            part = entries[start : start + graph.chunk]
            ids = np.array([[plan.token[entry] for entry in part]], np.int64)
            logits = graph.run(seq, ids, [length])
            length += len(part)
            for at, entry in enumerate(part):
                if (row := row_of.get(entry)) is not None:
                    found[row] = logits[0, at]

    def copy_prefix(self, src: int, dst: int, length: int) -> None:
        """Make the first ``length`` tokens of ``src`` those of ``dst`` too."""
        graph = self._alive_graph()
        check_seq(src, self.n_seq_max)
        check_seq(dst, self.n_seq_max)
        if not 0 <= length <= self._lengths[src]:
            raise InputError(
                "no such prefix", found=f"{length} tokens", expected=f"0 to {self._lengths[src]}"
            )
        if src != dst:
            graph.copy(src, dst, length)
        self._lengths[dst] = length

    def drop(self, seq: int, start: int = 0) -> None:
        """Forget a sequence from position ``start`` on."""
        self._alive_graph()
        check_seq(seq, self.n_seq_max)
        self._lengths[seq] = min(max(start, 0), self._lengths[seq])

    def clear(self) -> None:
        """Forget all sequences."""
        self._alive_graph()
        self._lengths = [0] * self.n_seq_max

    def close(self) -> None:
        """Free the model; further calls are errors."""
        self._graph, self._open = None, False

    def _alive(self) -> None:
        if not self._open:
            raise InputError("the model is closed", path=self._folder)

    def _alive_graph(self) -> Graph:
        self._alive()
        if self._graph is None:
            raise InputError("the model was opened for its vocabulary only", path=self._folder)
        return self._graph
