"""What a model's weights are multiplied with: sums of squares by column, taken from llama.cpp while it reads a text.

llama.cpp tells its evaluation callback of every node of its graph: asked first whether it wants to see one, then shown
it once it is computed. Wanted are the products of weights; their second source is what the weights were multiplied with.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.runtimes import _ggmltensor, _llamalib
from edgekit.runtimes._ggmltensor import Tensor
from edgekit.runtimes.engine import Run
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

HEADS: Final = ("output.weight", "token_embd.weight")
"""Weights that make the logits; the second where a model has the two tied."""
MOST_SEQUENCES: Final = 64
LOGITS: Final = 1 << 25
"""Floats of logits that llama.cpp keeps room for, though nobody reads them: 128 MiB."""
LEAST_BATCH, MOST_BATCH = 512, 2048
_OP: Final = Tensor.op.offset


@dataclass
class Sums:
    """Of one weight: sums of squares ``(matrices, columns)`` of what it was multiplied with, and how many rows that was.

    A mixture's weight has a matrix and a count for each expert; any other has one count for all its matrices.
    """

    squares: NDArray[np.float64]
    counts: NDArray[np.int64]


@dataclass
class Collector:
    """The callback and what it has gathered; an error in it waits in ``failure``, for C can't pass it on."""

    head: bool = False
    """Whether the weight that makes the logits counts too."""
    sums: dict[str, Sums] = field(default_factory=dict)
    failure: BaseException | None = None
    last: str | None = None
    """The weight behind which nothing of a graph is of use, once that is known: the rest isn't computed."""

    def __post_init__(self) -> None:
        self._layout = _ggmltensor.layout()
        self._newest = ""
        self._matters = {self._layout.mul_mat, self._layout.mul_mat_id}
        self.callback = _llamalib.load().ggml_backend_sched_eval_callback(self._heard)
        """For ``cb_eval``; lives as long as this."""

    def begin(self) -> None:
        """Hear that a new graph starts."""

    def learn_last(self) -> None:
        """After a whole graph: its last weight is every graph's."""
        if self.last is None and not self.head:
            self.last = self._newest

    def _heard(self, address: int, ask: bool, _data: object) -> bool:
        """False to ``ask``: don't show it; False when shown: leave the graph."""
        try:
            if self.failure is not None:
                return False
            # Most nodes end here: a structure of ctypes for each of a thousand would cost more than all sums.
            if ctypes.c_int.from_address(address + _OP).value not in self._matters:
                return False
            tensor = Tensor.from_address(address)
            weight = Tensor.from_address(tensor.src[0])
            name = plain_name(weight.name.decode("utf-8", "replace"))
            if ask:
                return self._wanted(name, tensor)
            self._newest = name
            self._take(name, tensor, weight)
            return name != self.last
        except BaseException as error:  # noqa: BLE001 - C calls this: it is raised once decode has returned
            self.failure = error
            return False

    def _wanted(self, name: str, tensor: Tensor) -> bool:
        if name in HEADS:
            return self.head
        return (
            name.startswith("blk.")
            and name.endswith(".weight")
            and Tensor.from_address(tensor.src[1]).type == _ggmltensor.F32
        )

    def _take(self, name: str, tensor: Tensor, weight: Tensor) -> None:
        rows = self._layout.values(tensor.src[1], np.float32)
        found = self.sums.get(name)
        routed = tensor.op == self._layout.mul_mat_id
        if found is None:
            matrices, columns = weight.ne[2] * weight.ne[3], weight.ne[0]
            counts = np.zeros(matrices if routed else 1, np.int64)
            found = self.sums[name] = Sums(np.zeros((matrices, columns)), counts)
        # A value beyond float32's square root is as useless as an infinity: both are found by the sum.
        with np.errstate(over="ignore", invalid="ignore"):
            if routed:
                added = self._take_routed(found, rows, self._layout.values(tensor.src[2], np.int32))
            else:
                added = _take_dense(found, rows, weight.ne[2], weight.ne[3])
        if not np.isfinite(added).all():
            raise InputError(
                f"the model computes values that aren't finite: what {name} is multiplied with",
                found="an infinity, a NaN, or a number out of range",
                expected="finite activations",
                next_step="check the checkpoint and the adapter, and whether they belong together",
            )

    @staticmethod
    def _take_routed(found: Sums, rows: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.float64]:
        """Rows ``(1, tokens, used or 1, columns)`` by the experts that each token was sent to."""
        chosen = ids.reshape(ids.shape[-2:])
        table = np.broadcast_to(rows[0], (*chosen.shape, rows.shape[-1]))
        experts = np.unique(chosen)
        added = np.zeros((len(experts), rows.shape[-1]))
        for index, expert in enumerate(experts):
            seen = table[chosen == expert]
            added[index] = _squares(seen)
            found.counts[expert] += len(seen)
        found.squares[experts] += added
        return added


def _take_dense(found: Sums, rows: NDArray[np.float32], inner: int, outer: int) -> NDArray[np.float64]:
    """Rows ``(ne3, ne2, rows, columns)``; a weight with fewer matrices than they have is broadcast over them."""
    added = np.zeros_like(found.squares)
    for i3 in range(rows.shape[0]):
        for i2 in range(rows.shape[1]):
            added[(i3 % outer) * inner + i2 % inner] += _squares(rows[i3, i2])
    found.squares += added
    found.counts += int(np.prod(rows.shape[:3])) // (inner * outer)
    return added


def _squares(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each column's sum of squares in one pass over memory; a batch's rounding is below 1e-5 of the sum."""
    found: NDArray[np.float32] = np.einsum("ij,ij->j", rows, rows)
    return found


def plain_name(name: str) -> str:
    """A weight's name without what the scheduler adds where it copies one: ``CUDA0#blk.0.attn_k.weight#0``."""
    parts = name.split("#")
    return parts[1] if len(parts) > 1 else name


def collect(
    path: Path,
    sequences: Sequence[Sequence[int]],
    *,
    threads: int = 0,
    head: bool = False,
    report: Callable[[int], None] | None = None,
) -> dict[str, Sums]:
    """Read token sequences, each from an empty context, with the model in ``path``; sums by weight, in order of names.

    ``report`` hears how many tokens were just read. ``InputError`` names the weight where activations aren't finite.
    Raises what opening the model raises, and ``RuntimeUnavailableError`` for a llama.cpp with other tensors.
    """
    return read(path, sequences, Collector(head=head), threads=threads, report=report)


def read(
    path: Path,
    sequences: Sequence[Sequence[int]],
    collector: Collector,
    *,
    threads: int = 0,
    report: Callable[[int], None] | None = None,
) -> dict[str, Sums]:
    """The same with a collector of one's own."""
    longest = max(map(len, sequences))
    with closing(LlamaCppEngine(path, vocab_only=True)) as words:
        batch = min(MOST_BATCH, max(LEAST_BATCH, LOGITS // words.n_vocab))
    options = LlamaCppOptions(
        n_ctx=longest, n_seq_max=min(MOST_SEQUENCES, len(sequences)), n_kv=max(longest, batch),
        n_batch=batch, n_outputs=batch, threads=threads, on_node=collector.callback,
    )  # fmt: skip
    with closing(LlamaCppEngine(path, options)) as engine:
        for group in groups(sequences, batch, options.n_seq_max):
            engine.clear()
            for runs in calls(group, batch):
                collector.begin()
                engine.decode(runs)
                if collector.failure is not None:
                    raise collector.failure
                collector.learn_last()
                if report:
                    report(sum(len(run.tokens) for run in runs))
    return dict(sorted(collector.sums.items()))


def groups(sequences: Sequence[Sequence[int]], tokens: int, most: int) -> Iterator[Sequence[Sequence[int]]]:
    """Neighbours that fit into a batch together: at most ``tokens`` and ``most`` sequences, or one that is longer."""
    start = size = 0
    for index, sequence in enumerate(sequences):
        if index > start and (size + len(sequence) > tokens or index - start == most):
            yield sequences[start:index]
            start, size = index, 0
        size += len(sequence)
    if start < len(sequences):
        yield sequences[start:]


def calls(group: Sequence[Sequence[int]], tokens: int) -> Iterator[list[Run]]:
    """A group in one call, or its only sequence in several. All logits are wanted: else the last layer sees few rows."""
    if len(group) > 1:
        yield [Run(seq, one, range(len(one))) for seq, one in enumerate(group)]
        return
    for at in range(0, len(group[0]), tokens):
        part = group[0][at : at + tokens]
        yield [Run(0, part, range(len(part)))]
