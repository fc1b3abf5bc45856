"""What a build's bundles are measured on before they are published, and the gates that they must pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit import gates as bars
from edgekit.errors import InputError
from edgekit.gates import METRICS, Gate

LEAST_CHUNK: Final = 8
REFERENCES: Final = ("F16", "F32", "BF16")
"""What the unquantized model may be written in: F16 keeps more of most weights than BF16, F32 keeps all."""


@dataclass(frozen=True)
class Trial:
    """Data and gates; nothing is measured where all of it is empty. ``InputError`` for a gate that can't be judged."""

    task: Path | None = None
    """Labelled records, which are asked with the build's own prompt and schema."""
    text: Path | None = None
    gates: tuple[str, ...] = ()
    """For every bundle, such as ``f1 >= 0.85``."""
    target_gates: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Further ones for the bundle of a target, by its name."""
    chunks: int | None = None
    """Chunks of the text that are read at most; unset: all."""
    ctx: int | None = None
    """Tokens of a chunk; unset: 512, or the model's context."""
    reference_type: str = REFERENCES[0]
    """What bundles are held against: the merged model in this type, every override of types left out."""

    def __post_init__(self) -> None:
        if self.chunks is not None and self.chunks < 1:
            raise InputError("chunks is out of range", found=self.chunks, expected="at least 1")
        if self.ctx is not None and self.ctx < LEAST_CHUNK:
            raise InputError("ctx is out of range", found=self.ctx, expected=f"at least {LEAST_CHUNK}")
        if self.reference_type not in REFERENCES:
            found, expected = self.reference_type, ", ".join(REFERENCES)
            raise InputError("a reference is not quantized", found=found, expected=expected)
        given = {"speed"} | ({"text"} if self.text else set()) | ({"task"} if self.task else set())
        if self.refers:
            given.add("reference")
        bars.check_measured(self.all_gates, given)

    @property
    def refers(self) -> bool:
        """Whether anything is measured beside the unquantized model."""
        return self.task is not None or self.text is not None

    @property
    def all_gates(self) -> tuple[Gate, ...]:
        """Every bundle's and every target's."""
        texts = [*self.gates, *(text for _, some in self.target_gates for text in some)]
        return tuple(map(bars.parse, texts))

    def gates_for(self, target: str | None) -> tuple[Gate, ...]:
        """Those of one bundle: of a target, or of a quantization that is named."""
        own = [text for name, some in self.target_gates if name == target for text in some]
        return tuple(map(bars.parse, [*self.gates, *own]))


def asks_speed(gates: tuple[Gate, ...]) -> bool:
    """Whether one of the gates takes a measurement of speed."""
    return any("speed" in METRICS[gate.metric].needs for gate in gates)
