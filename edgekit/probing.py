"""Models beside a reference on calibration tokens: what one tensor's rounding costs, and what a whole file's does.

Runs in ``edgekit.importance_worker``'s process, for llama.cpp aborts where Python would raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.evaluation.divergence import Comparer, NotFinite
from edgekit.evaluation.unsound import not_finite
from edgekit.gguf_header import GgufTensor, read_header

if TYPE_CHECKING:
    from edgekit.runtimes.engine import Engine
    from edgekit.runtimes.llamacpp import LlamaCppOptions

LOGITS: Final = 1 << 27
"""Floats of the reference's logits that are kept while weights are changed: 512 MiB."""
_BATCH: Final = 512
_ROWS: Final = 1 << 25
"""Floats of logits that one call may give."""

Sequences = Sequence[Sequence[int]]


class Weigh(msgspec.Struct, tag=True, frozen=True):
    """What each group's rounding costs: the reference in ``artifact``, F16, with the group's tensors as in ``probe``."""

    artifact: str
    probe: str
    tokens: str
    groups: list[list[str]]
    threads: int


class Compare(msgspec.Struct, tag=True, frozen=True):
    """What ``candidate`` costs beside the reference in ``artifact``."""

    artifact: str
    candidate: str
    tokens: str
    threads: int


class Found(msgspec.Struct, tag=True, frozen=True):
    """Mean KL divergences in nats, one for each group or one for the candidate, and the tokens that they are of."""

    klds: list[float]
    tokens: int


def weigh(request: Weigh, sequences: Sequences, report: Callable[[int], None]) -> Found:
    """Each group's divergence; ``report`` hears of each group that is done."""
    from edgekit.runtimes.rewriting import Rewritable

    probe = Path(request.probe)
    tensors = {tensor.name: tensor for tensor in read_header(probe).tensors}
    model = Rewritable(Path(request.artifact), _options(Path(request.artifact), sequences, request.threads))
    with closing(model):
        model.find()
        comparer = Comparer(model.engine.n_vocab)
        most = model.options.n_batch
        reference = [rows.copy() for rows in _read(model.engine, sequences, most)]
        klds = []
        for group in request.groups:
            values = {name: _widened(probe, tensors[name]) for name in group}
            with model.changed(values):
                rows = zip(reference, _read(model.engine, sequences, most), strict=True)
                klds.append(_mean(comparer, rows, probe))
            report(1)
    return Found(klds, sum(map(len, sequences)))


def compare(request: Compare, sequences: Sequences, report: Callable[[int], None]) -> Found:
    """The candidate's divergence; both read call by call, side by side."""
    from edgekit.runtimes.llamacpp import LlamaCppEngine

    paths = [Path(request.artifact), Path(request.candidate)]
    options = _options(paths[0], sequences, request.threads)
    with (
        closing(LlamaCppEngine(paths[0], options)) as reference,
        closing(LlamaCppEngine(paths[1], options)) as candidate,
    ):
        comparer = Comparer(reference.n_vocab)
        most = options.n_batch
        rows = zip(_read(reference, sequences, most), _read(candidate, sequences, most, report), strict=True)
        return Found([_mean(comparer, rows, paths[1])], sum(map(len, sequences)))


def affordable(sequences: Sequences, n_vocab: int, most: int) -> list[Sequence[int]]:
    """Evenly spread sequences of at most ``most`` tokens, whose logits can be kept; at least one."""
    most = min(most, LOGITS // n_vocab)
    total = sum(map(len, sequences))
    every = max(1, -(-total // most))
    found: list[Sequence[int]] = []
    count = 0
    for one in sequences[::every]:
        if found and count + len(one) > most:
            break
        found.append(one)
        count += len(one)
    return found


def _options(path: Path, sequences: Sequences, threads: int) -> LlamaCppOptions:
    from edgekit.runtimes.activations import MOST_SEQUENCES
    from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

    with closing(LlamaCppEngine(path, vocab_only=True)) as words:
        rows = max(1, min(_BATCH, _ROWS // words.n_vocab))
    longest = max(map(len, sequences))
    return LlamaCppOptions(
        n_ctx=longest, n_seq_max=min(MOST_SEQUENCES, len(sequences)), n_kv=max(longest, rows),
        n_batch=rows, n_outputs=rows, threads=threads,
    )  # fmt: skip


def _read(
    engine: Engine, sequences: Sequences, most: int, report: Callable[[int], None] | None = None
) -> Iterator[NDArray[np.float32]]:
    """All logits ``(tokens, n_vocab)`` in calls of ``most`` tokens, each sequence from an empty context; valid until the next."""
    from edgekit.runtimes.activations import calls, groups

    for group in groups(sequences, most, engine.n_seq_max):
        engine.clear()
        for runs in calls(group, most):
            yield np.asarray(engine.decode(runs))
            if report:
                report(sum(len(run.tokens) for run in runs))


def _mean(
    comparer: Comparer, pairs: Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]], path: Path
) -> float:
    total, count = 0.0, 0
    for ours, theirs in pairs:
        try:
            compared = comparer.compare([ours, theirs], np.zeros(len(ours), np.intp))
        except NotFinite as error:
            raise not_finite(path, f"{error.value} while its calibration tokens were read") from None
        total += float(compared[1].kld.sum())
        count += len(ours)
    return max(0.0, total / count)


def _widened(path: Path, tensor: GgufTensor) -> NDArray[np.uint8]:
    """A quantized tensor's values as F16 bytes."""
    from gguf import GGMLQuantizationType

    from edgekit.converters.gguf import ggml

    raw = np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.offset)
    values = np.empty(int(np.prod(tensor.dimensions)), np.float32)
    ggml.load().widen(GGMLQuantizationType[tensor.kind], raw, values)
    return values.astype("<f2").view(np.uint8)


Request = Weigh | Compare
"""What can be asked of this module."""


def answer(request: Request, sequences: Sequences, report: Callable[[int], None]) -> Found:
    """Do one of its requests."""
    return (
        weigh(request, sequences, report)
        if isinstance(request, Weigh)
        else compare(request, sequences, report)
    )
