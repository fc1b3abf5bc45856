"""What converting costs per byte, beside Llama: passes of both by turns, the processor's seconds and the wall's."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import plan, presets, stream
from tests.converters.cases import CASES
from tests.converters.oracles import SIZES, Case, make

LLAMA = "llama-3.2"
SCALE = 16
"""Rows of Llama's and its kin are then multiples of 256, as most models' are."""
PAIRS = {"Q4_K_M": 3, "Q8_0": 15}
"""Passes of each of the two: the faster a pass, the more it is disturbed by what else runs."""
SCALED = re.compile(
    r"(hidden|intermediate|input)_size|.*(_dim|_inner|_embd|intermediate_size|_factor)|query_pre.*"
)
"""Settings that grow with the model; rope factors come per rotated pair."""


@dataclass(frozen=True)
class Pace:
    """Ratios to Llama's seconds per byte: medians over pairs, of the processor's (user and system) and the wall's."""

    processor: float
    wall: float


class Model:
    """A larger model of a case's layout, bfloat16, and passes over it with one thread."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.folder = folder
        make(Case(case.config, larger({**SIZES, **case.settings})), folder, dtype="bfloat16")
        source = Checkpoint(folder)
        self.nbytes = sum(file.path.stat().st_size for file in source.files)
        self.layout = plan.lay_out(source, folder, "large")

    def seconds(self, preset: str) -> tuple[float, float]:
        """The processor's and the wall's per byte, of one pass."""
        target = self.folder / "large.gguf"
        target.unlink(missing_ok=True)
        chosen = plan.plan(self.layout, presets.preset(preset))
        processor, wall = time.process_time(), time.perf_counter()
        stream.write([chosen], [target], 1)
        return (
            (time.process_time() - processor) / self.nbytes,
            (time.perf_counter() - wall) / self.nbytes,
        )


def paces(case: Case, llama: Model, folder: Path) -> dict[str, Pace]:
    """One case's, by preset."""
    model, found = Model(case, folder), {}
    for preset, pairs in PAIRS.items():
        model.seconds(preset)
        times = [(model.seconds(preset), llama.seconds(preset)) for _ in range(pairs)]
        processor, wall = (median(one[i] / other[i] for one, other in times) for i in range(2))
        found[preset] = Pace(processor, wall)
    shutil.rmtree(folder)
    return found


def llama(folder: Path) -> Model:
    """What all are held against."""
    return Model(CASES[LLAMA], folder)


def larger(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with every size of the layers multiplied."""
    grown: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            grown[key] = larger(value)
        elif (
            isinstance(value, list) and SCALED.fullmatch(key) or type(value) is int and SCALED.fullmatch(key)
        ):
            grown[key] = value * SCALE
        else:
            grown[key] = value
    return grown
