"""What a model's weights are multiplied with, column by column: sums of products, beside an importance matrix's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.correlated import WIDEST, Sums
from edgekit.runtimes import activations
from edgekit.runtimes._ggmltensor import Tensor
from edgekit.runtimes.activations import HEADS, Collector


class CorrelationCollector(Collector):
    """Also sums the products of columns, for weights of one matrix; those with the same input share a sum.

    The weight that makes the logits is taken in here, but not in the importance matrix, as llama-imatrix has it.
    """

    def __init__(self, sums: Sums) -> None:
        super().__init__(head=True)
        self.products = sums
        self._owner: dict[str, str] = {}
        self._seen: dict[int, str] = {}

    def begin(self) -> None:
        """A new graph: its tensors lie where the last one's did."""
        self._seen.clear()

    def _take(self, name: str, tensor: Tensor, weight: Tensor) -> None:
        if name not in HEADS:
            super()._take(name, tensor, weight)
        routed = tensor.op == self._layout.mul_mat_id
        if routed or weight.ne[2] * weight.ne[3] != 1 or weight.ne[0] > WIDEST:
            return
        address = tensor.src[1]
        first = self._owner.setdefault(name, self._seen.setdefault(address, name))
        if first == name:
            self._add(name, self._layout.values(address, np.float32))
        elif self.products.input_of(name) is None:
            number = self.products.input_of(first)
            assert number is not None
            self.products.join(name, number)

    def _add(self, name: str, rows: NDArray[np.float32]) -> None:
        table = np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]))
        number = self.products.input_of(name)
        if number is None:
            number = self.products.begin(name, rows.shape[-1])
        self.products.add(number, table)


def collect(
    path: Path,
    sequences: Sequence[Sequence[int]],
    folder: Path,
    *,
    threads: int = 0,
    report: Callable[[int], None] | None = None,
) -> dict[str, activations.Sums]:
    """As ``activations.collect``, and write the correlations to ``folder``."""
    products = Sums(folder)
    collector = CorrelationCollector(products)
    try:
        return activations.read(path, sequences, collector, threads=threads, report=report)
    finally:
        products.close()
