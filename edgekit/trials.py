"""Candidates for a quantization: written as whole files, measured beside the reference on held-out tokens, removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import importance_worker, room
from edgekit.gathering import Gathered
from edgekit.probing import Compare, Found

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType as Q

    from edgekit.converters.gguf.feedback import Feedback
    from edgekit.converters.gguf.plan import Plan
    from edgekit.converters.gguf.presets import Override, Preset


class Trials:
    """Makes plans and measures them."""

    def __init__(self, found: Gathered) -> None:
        self.found = found
        self.tokens = 0
        """That candidates were measured on."""

    def feedback(self, strength: float) -> Feedback | None:
        """Error feedback of a strength; None for rounding to nearest."""
        from edgekit.converters.gguf.feedback import Feedback

        return Feedback(self.found.factors, strength) if strength else None

    def plan(self, types: Mapping[str, Q], strength: float, preset: Preset | None = None) -> Plan:
        """A plan with these types, under a preset or under none."""
        from edgekit.converters.gguf import plan, presets

        return plan.plan(
            self.found.inputs.layout, preset or presets.of_bits(4.5), overrides(types), self.found.matrix,
            feedback=self.feedback(strength),
        )  # fmt: skip

    def measure(self, plans: Mapping[str, Plan]) -> dict[str, float]:
        """The mean divergence of each, by name; all are written in one pass."""
        with self.written(plans) as files:
            return {name: self.compared(name, file) for name, file in files.items()}

    @contextmanager
    def written(self, plans: Mapping[str, Plan]) -> Iterator[dict[str, Path]]:
        """Files of the plans, for a while."""
        from edgekit.converters.gguf import stream

        found = self.found
        files = {name: found.folder / f"candidate-{at}.gguf" for at, name in enumerate(plans)}
        room.check(found.folder, sum(plan.data_bytes for plan in plans.values()))
        found.progress.stage(f"trying {', '.join(plans)}", found.inputs.layout.parameters)
        try:
            stream.write(
                list(plans.values()), list(files.values()), found.threads, report=found.progress.advance,
                allow_nonfinite=found.inputs.spec.allow_nonfinite,
            )  # fmt: skip
            yield files
        finally:
            for file in files.values():
                file.unlink(missing_ok=True)

    def compared(self, name: str, file: Path) -> float:
        """A file's mean divergence to the reference on the tokens to choose by, nats."""
        found = self.found
        found.progress.stage(
            f"comparing {name} with the unquantized model", found.chosen_by.stat().st_size // 4
        )
        request = Compare(str(found.model), str(file), str(found.chosen_by), found.threads)
        said = importance_worker.run(request, lambda tokens: found.progress.advance(name, tokens))
        assert isinstance(said, Found)
        self.tokens = said.tokens
        return said.klds[0]


def overrides(types: Mapping[str, Q]) -> list[Override]:
    """The types of single tensors, as a plan takes them."""
    import re

    from edgekit.converters.gguf.presets import Override

    return [Override(re.compile(f"^{re.escape(name)}$"), kind) for name, kind in types.items()]
