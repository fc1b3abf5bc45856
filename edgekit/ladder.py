"""The types that each tensor of a model may get, the bytes that this takes, and budgets held against them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit.budget import Budget
from edgekit.errors import InputError
from edgekit.project import BuildSpec

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType as Q

    from edgekit.converters.gguf.allocate import Option
    from edgekit.converters.gguf.plan import Layout, Plan
    from edgekit.converters.gguf.presets import Preset


class Ladder:
    """Of one model; types that the build names itself, with --tensor-type, stand."""

    def __init__(self, spec: BuildSpec, layout: Layout) -> None:
        from edgekit.converters.gguf import allocate, presets
        from edgekit.converters.gguf.mixture import is_quantized

        self.spec, self.layout = spec, layout
        self.shapes = {t.name: t.shape for t in layout.tensors if is_quantized(t.name, t.shape)}
        """Of the tensors that are quantized."""
        named = [presets.Override.parse(text) for text in spec.tensor_types]
        found = {name: next((o.kind for o in named if o.pattern.search(name)), None) for name in self.shapes}
        self.fixed = {name: kind for name, kind in found.items() if kind is not None}
        self.kinds: dict[str, Sequence[Q]] = {
            name: (self.fixed[name],) if name in self.fixed else allocate.kinds_for(shape[-1])
            for name, shape in self.shapes.items()
        }
        least, self.most = ({name: ones[at] for name, ones in self.kinds.items()} for at in (0, -1))
        self._least = self.plan(least)
        self.floor, self.ceiling = self._least.data_bytes, self.plan(self.most).data_bytes
        """Bytes of all tensors in their smallest types, and in F16."""
        self._weights = sum(math.prod(tensor.shape) for tensor in layout.tensors)

    def plan(self, types: Mapping[str, Q]) -> Plan:
        """A plan with these types, split as the build is; only for its sizes."""
        from edgekit.converters.gguf import plan
        from edgekit.importance import MATRIX, matrix_of
        from edgekit.trials import overrides

        dataset = self.spec.calibration.name if self.spec.calibration else MATRIX
        matrix = matrix_of(self.layout, dataset)
        return plan.plan(self.layout, self.preset(types), overrides(types), matrix, self.spec.split_size)

    def preset(self, types: Mapping[str, Q]) -> Preset:
        """What a file with these types calls itself."""
        from edgekit.converters.gguf import presets

        return presets.of_bits(self.bits(types))

    def bits(self, types: Mapping[str, Q]) -> float:
        """Bits per weight of the tensors that are quantized."""
        from edgekit.converters.gguf.presets import row_bytes

        total = sum(math.prod(self.shapes[name]) for name in types)
        taken = sum(
            row_bytes(kind, self.shapes[name][-1]) * (math.prod(self.shapes[name]) // self.shapes[name][-1])
            for name, kind in types.items()
        )
        return 8 * taken / max(1, total)

    def check(self, budget: Budget) -> None:
        """``InputError`` for a budget below the smallest types, or above F16."""
        if budget.max_kld is not None:
            return
        allowed = self.bytes_of(budget)
        if self.floor <= allowed < self.ceiling:
            return
        header = self._least.file_bytes - self.floor
        least, most = self.floor + header, self.ceiling + header
        bits = 8 / self._weights
        raise InputError(
            "the budget is below what the smallest types take"
            if allowed < self.floor
            else "the budget is above what F16 takes: there is nothing to choose",
            found=budget.asked,
            expected=f"{least:,} to {most:,} bytes, or {math.ceil(self.floor * bits * 1000) / 1000:g} to "
            f"{math.floor(self.ceiling * bits * 1000) / 1000:g} bits per weight",
            next_step=None if allowed < self.floor else "take -q F16",
        )

    def bytes_of(self, budget: Budget) -> int:
        """The bytes of all tensors that a budget allows."""
        if budget.max_size is not None:
            return budget.max_size - (self._least.file_bytes - self.floor)
        assert budget.bpw is not None
        return int(budget.bpw * self._weights / 8)

    def under(self, options: Mapping[str, Sequence[Option]], nbytes: int) -> dict[str, Q]:
        """The types that lose least, all tensors taking ``nbytes`` at most."""
        from edgekit.converters.gguf.allocate import allocate

        budget = nbytes - self._kept_bytes()
        while True:
            chosen = allocate(options, budget)
            assert chosen is not None  # the budget was checked
            types = {name: one.kind for name, one in chosen.items()}
            planned = self.plan(types)
            # Splitting in other places can take a few more bytes than the smallest types' plan does.
            over = planned.file_bytes - (nbytes + self._least.file_bytes - self.floor)
            if over <= 0:
                return types
            budget -= over

    def reaching(
        self, options: Mapping[str, Sequence[Option]], loss: float, low: int, high: int
    ) -> dict[str, Q]:
        """The types with the fewest bytes, between ``low`` and ``high`` in all, that are predicted to lose so little."""
        while low < high:
            middle = (low + high) // 2
            types = self.under(options, middle)
            predicted = sum(one.loss for name in types for one in options[name] if one.kind is types[name])
            if predicted <= loss:
                high = middle
            else:
                low = middle + max(1, (high - low) // 1000)
        return self.under(options, high)

    def _kept_bytes(self) -> int:
        """Bytes of the tensors that aren't quantized."""
        from edgekit.converters.gguf.allocate import nbytes_of

        return self.floor - sum(nbytes_of(ones[0], self.shapes[name]) for name, ones in self.kinds.items())
