"""What each type does to a tensor's output: the rounding error weighed with the inputs' correlations, on some of its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from gguf import GGMLQuantizationType as Q
from threadpoolctl import threadpool_limits

from edgekit.converters.gguf import ggml
from edgekit.converters.gguf.feedback import Factors, Feedback
from edgekit.gguf_header import GgufTensor, read_header
from edgekit.tensors import Float32

ROWS: Final = 256
"""Rows of a tensor that are rounded to see what a type costs: rows are alike."""


@dataclass(frozen=True)
class Measures:
    """What errors are weighed with: correlations where there are some, else an importance matrix, else nothing."""

    factors: Factors
    weights: Mapping[str, Float32]
    """``(experts, columns)`` by tensor."""


def errors(
    model: Path,
    kinds: Mapping[str, Sequence[Q]],
    by: Measures,
    threads: int,
    report: Callable[[str], None] | None = None,
) -> dict[str, dict[Q, float]]:
    """The squared error of each tensor's outputs in each of its types, estimated from ``model``, which is F16."""
    tensors = {tensor.name: tensor for tensor in read_header(model).tensors}

    def one(name: str) -> tuple[str, dict[Q, float]]:
        found = _errors(model, tensors[name], kinds[name], by)
        if report:
            report(name)
        return name, found

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        return dict(pool.map(one, kinds))


def _errors(model: Path, tensor: GgufTensor, kinds: Sequence[Q], by: Measures) -> dict[Q, float]:
    rows, scale = _sample(model, tensor)
    shape = tuple(reversed(tensor.dimensions))
    correlated = by.factors.correlations.has(tensor.name, shape[-1]) and len(shape) == 2
    matrix = by.factors.correlations.of(by.factors.correlations.input_of(tensor.name)) if correlated else None
    weights = by.weights.get(tensor.name)
    squares = None if weights is None else np.ascontiguousarray(weights.mean(0), np.float32)
    found = {}
    for kind in kinds:
        lost = rows - _rounded(kind, tensor.name, shape, rows, by, squares)
        if matrix is not None:
            total = np.vdot(lost @ matrix, lost)
        else:
            total = np.vdot(lost * (1.0 if squares is None else squares), lost)
        found[kind] = float(total) * scale
    return found


def _rounded(
    kind: Q, name: str, shape: tuple[int, ...], rows: Float32, by: Measures, squares: Float32 | None
) -> Float32:
    kernels = ggml.load()
    if by.factors.fits(name, shape, kind):
        packed = Feedback(by.factors, 1.0).quantize(kernels, kind, name, rows)
    else:
        packed = np.empty(rows.size * 4, np.uint8)
        packed = packed[: kernels.quantize(kind, rows, packed, squares)]
    found = np.empty_like(rows)
    kernels.widen(kind, packed, found)
    return found


def _sample(model: Path, tensor: GgufTensor) -> tuple[Float32, float]:
    """Evenly spread rows ``(n, columns)``, and how many rows each stands for."""
    columns = tensor.dimensions[0]
    count = int(np.prod(tensor.dimensions)) // columns
    every = np.memmap(model, np.dtype("<f2"), "r", tensor.offset, (count, columns))
    picked = np.linspace(0, count - 1, min(ROWS, count)).round().astype(np.intp)
    return np.ascontiguousarray(every[picked], np.float32), count / len(picked)
