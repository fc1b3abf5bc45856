"""ONNX Runtime behind the engine seam: the graph of onnxruntime-genai's builder, without torch and transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgekit.errors import InputError
from edgekit.genai_config import read_config
from edgekit.runtimes._onnxgraph import OnnxGraph
from edgekit.runtimes._onnxwords import OnnxVocabulary
from edgekit.runtimes.cores import default_threads
from edgekit.runtimes.engine import Logits, Run
from edgekit.runtimes.flat import Plan, check_options, check_seq

DEFAULT_CONTEXT: Final = 4096


@dataclass(frozen=True)
class OnnxOptions:
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


class OnnxEngine:
    """One ONNX model in onnxruntime. Every sequence has buffers of its own, so copying a prefix copies its keys and values."""

    def __init__(
        self, path: str | os.PathLike[str], options: OnnxOptions | None = None, *, vocab_only: bool = False
    ) -> None:
        """Load a folder as onnxruntime-genai has it, or its graph; ``vocab_only`` can only tokenize.

        Raises ``BundleError`` (unsound files), ``UnsupportedModelError`` (a graph or tokenizer of another kind),
        ``HardwareError`` (no memory) and ``RuntimeUnavailableError`` (onnxruntime is missing).
        """
        self._graph: OnnxGraph | None = None
        self._open = False
        place = Path(path)
        self._folder = place if place.is_dir() else place.parent
        options = options or OnnxOptions()
        config = read_config(self._folder)
        self._vocabulary = words = OnnxVocabulary(self._folder, config)
        self.n_vocab: int = config.model.vocab_size
        self.chat_template: str | None = words.chat_template
        self.eos_ids: frozenset[int] = words.eos_ids
        self.specials: Mapping[str, int] = words.specials
        self.bos_token, self.eos_token, self.add_bos = words.bos_token, words.eos_token, words.add_bos
        self.n_ctx = self.n_seq_max = self.n_kv = 0
        if not vocab_only:
            trained = config.model.context_length
            self.n_ctx = options.n_ctx or min(trained, DEFAULT_CONTEXT)
            if self.n_ctx > trained:  # the table of rotations has no more rows
                raise InputError(
                    "the context is longer than the graph's", path=self._folder, found=self.n_ctx,
                    expected=f"at most {trained}",
                )  # fmt: skip
            self.n_seq_max = options.n_seq_max
            self.n_kv = self.n_ctx * self.n_seq_max
            threads = options.threads or default_threads()
            self._graph = OnnxGraph(self._folder, config, threads, self.n_seq_max, self.n_ctx)
        self._lengths = [0] * self.n_seq_max
        self._open = True

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids of ``text``, without bos; control tokens are recognised in it only if ``special``."""
        self._alive()
        return self._vocabulary.tokenize(text, special)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; empty for control tokens."""
        self._alive()
        return self._vocabulary.token_bytes(token)

    def decode(self, runs: Sequence[Run]) -> Logits:
        """Append each run and return logits ``(wanted, n_vocab)``, one row for each wanted position, in order.

        The rows are valid until the next call. After an error every sequence is as it was before the call.
        """
        graph = self._alive_graph()
        if len(runs) == 1 and len(runs[0].tokens) == 1 and tuple(runs[0].want) == (0,):
            return self._one(graph, runs[0])
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

    def _one(self, graph: OnnxGraph, run: Run) -> Logits:
        plan = Plan([run], self._lengths, self.n_ctx, self.n_vocab)
        logits = graph.run(run.seq, np.array([plan.token], np.int64), [self._lengths[run.seq]])
        self._lengths[run.seq] += 1
        row: Logits = logits[0]
        return row

    def _together(
        self,
        graph: OnnxGraph,
        plan: Plan,
        entries: Mapping[int, int],
        row_of: Mapping[int, int],
        found: Logits,
    ) -> None:
        """One token of several sequences in one call; those that lie between take part, and keep nothing of it."""
        first, last = min(entries), max(entries)
        ids = np.zeros((last - first + 1, 1), np.int64)
        for seq, entry in entries.items():
            ids[seq - first] = plan.token[entry]
        logits = graph.run(first, ids, self._lengths[first : last + 1])
        for seq, entry in entries.items():
            if (row := row_of.get(entry)) is not None:
                found[row] = logits[seq - first, 0]

    def _alone(
        self,
        graph: OnnxGraph,
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

    def _alive_graph(self) -> OnnxGraph:
        self._alive()
        if self._graph is None:
            raise InputError("the model was opened for its vocabulary only", path=self._folder)
        return self._graph
