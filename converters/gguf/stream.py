"""One pass over the model: read a chunk of rows, merge, quantize for every file, write in place.

Each thread takes whole chunks from reading to writing, so nearly all of its time is spent in ggml's quantizer,
and what is held is a chunk per thread. The system is asked to read ahead of the threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Q
from threadpoolctl import threadpool_limits

from edgekit.converters.gguf import ggml, imatrix
from edgekit.converters.gguf.chunks import WINDOW, Chunk, chunks, pieces, windows
from edgekit.converters.gguf.family import Mapped, Part
from edgekit.converters.gguf.output import Output
from edgekit.converters.gguf.plan import Placed, Plan
from edgekit.errors import InputError
from edgekit.tensors import ALL, Float32, TensorSource

GRIDS = frozenset({Q.IQ1_S, Q.IQ1_M, Q.IQ2_XXS, Q.IQ2_XS, Q.IQ2_S, Q.IQ3_XXS, Q.IQ3_S})
"""Types whose quantizers abort on NaNs, infinities and overflows."""
MODERATE = 1e15
"""Square of a weight times its importance, at most, for those: what they compute of it stays below 1e38."""

Prove = Callable[[Path], None]
Report = Callable[[str, int], None]
"""Called with a tensor's name and the number of its weights just done."""


@dataclass
class Timing:
    """Seconds summed over threads: in the quantizer, and in all; their ratio is how busy the kernels were."""

    quantizing: float = 0.0
    total: float = 0.0
    wall: float = 0.0


def write(
    plans: Sequence[Plan],
    paths: Sequence[Path],
    threads: int,
    *,
    prove: Prove | None = None,
    report: Report | None = None,
    allow_nonfinite: bool = False,
) -> Timing:
    """Write a file for every plan in one pass over their common source.

    A plan that is split has its files beside its path. ``prove`` is called with the first file when the headers
    stand, before any tensor is read. On an error or an
    interrupt the threads are stopped and the files are left to the caller to remove.
    """
    outputs: list[Output] = []
    try:
        for plan, path in zip(plans, paths, strict=True):
            outputs.append(Output(plan, path))
        if prove:
            prove(outputs[0].paths[0])
        return _Pass(outputs, report, allow_nonfinite).run(threads)
    finally:
        for output in outputs:
            output.close()


class _Pass:
    """The state that the threads of one pass share."""

    def __init__(
        self, outputs: Sequence[Output], report: Report | None, allow_nonfinite: bool = False
    ) -> None:
        self.outputs = outputs
        self.allow_nonfinite = allow_nonfinite
        self.source: TensorSource = outputs[0].plan.layout.source
        self.tensors = [placed.mapped for placed in outputs[0].plan.tensors]
        self.report = report
        self.timing = Timing()
        self._chunks: Iterator[Chunk] = iter(())
        self._ahead: Iterator[Part | None] = iter(())
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def run(self, threads: int) -> Timing:
        todo = list(chunks(self.tensors, self.source, self._rounded()))
        ahead, lead = windows(todo), WINDOW + 2 * threads
        self._chunks, self._ahead = iter(todo), iter(ahead[lead:])
        for window in filter(None, ahead[:lead]):
            self._prefetch(window)
        began = time.perf_counter()
        # One BLAS thread each: two pools fighting over the cores cost three times the whole Q8_0 pass.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads, "quantize") as pool:
            futures = [pool.submit(self._work) for _ in range(threads)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
            for future in futures:
                future.result()
        self.timing.wall = time.perf_counter() - began
        return self.timing

    def _rounded(self) -> set[int]:
        """Places of the tensors that are rounded column by column in some file."""
        every = (enumerate(output.plan.tensors) for output in self.outputs)
        return {index for places in every for index, placed in places if placed.feedback}

    def _take(self) -> Chunk | None:
        with self._lock:
            ahead = next(self._ahead, None)
            chunk = next(self._chunks, None)
        if ahead:
            self._prefetch(ahead)
        return chunk

    def _prefetch(self, part: Part) -> None:
        # Every row holds some of any column.
        self.source.prefetch(part.source, ALL if part.columns else slice(part.start, part.stop))

    def _pieces(self) -> Iterator[Chunk]:
        while chunk := self._take():
            yield from pieces(chunk, self.source)

    def _work(self) -> None:
        try:
            worker = _Worker(self)
            for piece in self._pieces():
                if self._stop.is_set():
                    return
                worker.do(piece)
        except BaseException:
            self._stop.set()
            raise


class _Worker:
    """One thread's buffers."""

    def __init__(self, shared: _Pass) -> None:
        self.shared = shared
        self.ggml = ggml.load()
        self.rows = np.empty(0, np.float32)
        self.packed = np.empty(0, np.uint8)
        self.finite = True

    def do(self, chunk: Chunk) -> None:
        began = time.perf_counter()
        tensor = self.shared.tensors[chunk.index]
        places = [(output, output.plan.tensors[chunk.index]) for output in self.shared.outputs]
        fresh = [(output, placed) for output, placed in places if not placed.copied]
        for output, placed in places:
            if placed.copied:
                self._copy(output, placed, chunk)
        rows = self._read(tensor, chunk) if fresh else None
        spent = sum(self._pack(output, placed, chunk, rows) for output, placed in fresh if rows is not None)
        with self.shared._lock:
            self.shared.timing.quantizing += spent
            self.shared.timing.total += time.perf_counter() - began
            if self.shared.report:
                self.shared.report(tensor.name, self._weights(tensor, chunk))

    def _weights(self, tensor: Mapped, chunk: Chunk) -> int:
        if tensor.values is not None:
            return tensor.values.size
        info = self.shared.source.info
        return sum(int(np.prod(part.shape(info(part.source)))) for part in chunk.parts)

    def _copy(self, output: Output, placed: Placed, chunk: Chunk) -> None:
        """Rows of a GGUF base that stay as they are stored."""
        (part,) = chunk.parts
        assert output.plan.layout.origin
        raw = output.plan.layout.origin.raw(part.source, slice(part.start, part.stop))
        if not self.shared.allow_nonfinite and not self.ggml.validate(placed.kind, raw, len(raw)):
            raise _unsound(placed.mapped, "no file")
        output.write(placed, chunk.at, raw.data)

    def _read(self, tensor: Mapped, chunk: Chunk) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """A chunk's rows, merged and in GGUF's order, as a matrix (vectors as one row)."""
        columns = tensor.shape[-1]
        if tensor.values is not None:
            self.finite = True
            return tensor.values.reshape(-1, columns)
        shapes = [part.shape(self.shared.source.info(part.source)) for part in chunk.parts]
        sizes = [int(np.prod(shape)) for shape in shapes]
        if self.rows.size < sum(sizes):
            self.rows = np.empty(sum(sizes), np.float32)
        done = 0
        for part, shape, size in zip(chunk.parts, shapes, sizes, strict=True):
            part.read(self.shared.source, self.rows[done : done + size].reshape(shape))
            done += size
        self.finite = _is_finite(self.rows[:done])
        if not self.finite and not self.shared.allow_nonfinite:
            raise _unsound(tensor, "no file")
        rows = self.rows[:done].reshape(-1, *shapes[0][1:])
        if tensor.transform:
            rows = tensor.transform(rows)
        return rows.reshape(-1, columns)

    def _pack(
        self,
        output: Output,
        placed: Placed,
        chunk: Chunk,
        rows: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    ) -> float:
        """Quantize and write one chunk for one file; returns the seconds spent in the quantizer."""
        nbytes = len(rows) * placed.row_bytes
        if self.packed.size < nbytes:
            self.packed = np.empty(nbytes, np.uint8)
        began = time.perf_counter()
        written = self._quantize(placed, chunk.at, rows)
        spent = time.perf_counter() - began
        sound = not self.finite or self.ggml.validate(placed.kind, self.packed, nbytes)
        if written != nbytes or not sound:
            raise _unsound(placed.mapped, f"{placed.kind.name} never")
        output.write(placed, chunk.at, self.packed[:nbytes].data)
        return spent

    def _quantize(
        self, placed: Placed, at: int, rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    ) -> int:
        if placed.kind in GRIDS and not _is_moderate(rows, placed.weights):
            raise _unsound(placed.mapped, f"{placed.kind.name} never")
        if placed.feedback and self.finite:
            packed = placed.feedback.quantize(self.ggml, placed.kind, placed.mapped.name, rows)
            self.packed[: packed.size] = packed
            return packed.size
        if placed.weights is None:
            return self.ggml.quantize(placed.kind, rows, self.packed)
        height = placed.mapped.shape[-2] if len(placed.mapped.shape) > 2 else at + len(rows)
        return sum(
            self.ggml.quantize(
                placed.kind, rows[start:stop], self.packed[start * placed.row_bytes :], weights
            )
            for start, stop, weights in imatrix.spans(placed.weights, height, at, len(rows))
        )


def _is_finite(values: Float32) -> bool:
    """Whether no value is a NaN or an infinity, which the quantizers would swallow without a word.

    Both survive the sum of squares, BLAS's fastest look at every value; only where it overflows are they counted.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values @ values)) or bool(np.isfinite(values).all())


def _is_moderate(rows: Float32, weights: Float32 | None) -> bool:
    """Whether the quantizers that search a grid stay within float32: they abort the process where they don't."""
    with np.errstate(all="ignore"):
        largest = float(np.abs(rows).max())
        return largest * largest * (1.0 if weights is None else float(weights.max())) <= MODERATE


def _unsound(tensor: Mapped, holder: str) -> InputError:
    return InputError(
        f"tensor {next(iter(sorted(tensor.sources)), tensor.name)!r} holds values that {holder} takes",
        found="an infinity, a NaN, or a number out of range",
        expected="finite weights",
        next_step="check the checkpoint and the adapter; for F16, try BF16; --allow-nonfinite writes them where it can",
    )
