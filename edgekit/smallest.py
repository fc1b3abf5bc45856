"""``--quant smallest``: the smallest quantization whose gates pass for sure, found by climbing from below.

A gate passes for sure where the worse end of its figure's 95 % interval does. Each rung is one pass over the model, and
is dropped before the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from edgekit import bundle, evidence, judging, measuring
from edgekit import gates as bars
from edgekit.atomic import atomic_file, check_free
from edgekit.automatic import Ready
from edgekit.budget import AUTO
from edgekit.errors import GateError, InputError
from edgekit.evidence import Judged
from edgekit.gates import Gate
from edgekit.importance import calibrated
from edgekit.judging import Judge
from edgekit.opening import opened
from edgekit.orders import SMALLEST, Order, alone, check, folder_of, is_smallest
from edgekit.progress import Progress
from edgekit.project import BuildSpec

if TYPE_CHECKING:
    from edgekit.build import Built

EDGES: Final = 2
"""Rungs on either side of the size gates that are named where none lies within."""


@dataclass(frozen=True)
class Step:
    """A quantization that may be tried, and the exact bytes of its files."""

    quantization: str
    size: int


def asked(spec: BuildSpec) -> bool:
    """Whether a build is to find the smallest that passes."""
    return any(map(is_smallest, spec.quantizations))


def build(spec: BuildSpec, progress: Progress) -> list[Built]:
    """What else is asked for, as ever; then the climb. In the spec's order; raises as ``edgekit.build.build`` does.

    Where nothing passes, what came nearest is returned, unpublished. ``GateError`` where nothing has a size that passes.
    """
    from edgekit import build as pipeline

    check(spec)
    for one in alone(spec):
        check_free(folder_of(one), force=spec.force)
    found = steps(spec)
    measuring.check(spec)
    others = tuple(name for name in spec.quantizations if not is_smallest(name))
    at = next(at for at, name in enumerate(spec.quantizations) if is_smallest(name))
    types = tuple(step.quantization for step in found)
    with calibrated(replace(spec, quantizations=types), progress) as ready, judging.judge(spec) as judge:
        rest = []
        if others or spec.devices:
            # An automatic one calibrates by itself: the matrix alone says too little.
            source = spec if AUTO in map(str.upper, others) else ready
            rest = pipeline.build(replace(source, quantizations=others), progress, judge)
        rest.insert(at, _climb(replace(ready, devices=()), found, replace(judge, strict=True), progress))
    return rest


def steps(spec: BuildSpec) -> list[Step]:
    """What may be tried, smallest first: known from headers alone.

    Left out are types that lack an importance matrix, those for models that were trained with such weights, those
    whose size a gate refuses, and those that come to the same types as another.
    """
    from edgekit.plan import barred, plans
    from edgekit.profiles.quality import ORDER, TRAINED_FOR, rank

    gates = _gates(spec)
    found: dict[tuple[tuple[str, str], ...], Step] = {}
    planned = replace(spec, quantizations=(spec.trial.reference_type,), devices=())
    with opened(planned, Progress(), planning=True) as inputs:
        usable = [one for one in plans(inputs, spec, []) if not barred(inputs, one)]
        for one in sorted(usable, key=lambda one: rank(one.preset.name)):
            name = one.preset.name
            if name in ORDER and name not in TRAINED_FOR:
                types = tuple((tensor.mapped.name, tensor.kind.name) for tensor in one.tensors)
                found.setdefault(types, Step(name, one.file_bytes))
    climbing = sorted(found.values(), key=lambda step: step.size)
    fitting = [
        step for step in climbing if all(gate.passes(step.size) for gate in gates if gate.metric == "size")
    ]
    if not fitting:
        raise _none_fits(gates, climbing)
    return fitting


def _gates(spec: BuildSpec) -> tuple[Gate, ...]:
    gates = spec.trial.gates_for(None)
    if all(gate.metric == "size" for gate in gates):
        raise InputError(
            f"the {SMALLEST} that passes takes a gate besides size",
            found=", ".join(gate.text for gate in gates) or "no gate",
            next_step="pass --text and --gate 'kld <= 0.02', or --task and --gate 'f1_drop <= 0.01'",
        )
    return gates


def _none_fits(gates: Sequence[Gate], climbing: Sequence[Step]) -> GateError:
    sizes = ", ".join(gate.text for gate in gates if gate.metric == "size")
    ends = dict.fromkeys([*climbing[:EDGES], *climbing[-EDGES:]])
    return GateError(
        "no quantization has such a size",
        found=", ".join(f"{step.quantization} {bars.shown('size', step.size)}" for step in ends),
        expected=sizes,
    )


def _climb(spec: BuildSpec, found: Sequence[Step], judge: Judge, progress: Progress) -> Built:
    """The first that passes; or what came nearest, whose evidence is left as that of any bundle that failed."""
    from edgekit import build as pipeline

    place = folder_of(replace(spec, quantizations=(SMALLEST,)))
    tried: list[tuple[float, Built]] = []
    for step in found:
        wanted = [Order(step.quantization, place)]
        ready = Ready(replace(spec, quantizations=(step.quantization,)))
        (built,) = pipeline.made(ready, wanted, judge, progress)
        if built.published:
            return built
        judged = judge.ladder[-1].gates
        failed = [evidence.explained(one) for one in judged if not one.passed]
        progress.note(f"{step.quantization}, {bars.shown('size', step.size)}: {'; '.join(failed)}")
        tried.append((shortfall(judged), built))
    nearest = min(tried, key=lambda one: one[0])[1]
    return _told(nearest, judge, place)


def _told(nearest: Built, judge: Judge, place: Path) -> Built:
    """Keep the evidence of a climb that led nowhere."""
    its = evidence.of(nearest.manifest)
    assert its is not None
    quality = evidence.plain(msgspec.structs.replace(its, ladder=list(judge.ladder)))
    manifest = msgspec.structs.replace(nearest.manifest, quality=quality)
    with atomic_file(judging.failed_place(place), force=True) as temporary:
        bundle.write_json(temporary, manifest)
    return replace(nearest, manifest=manifest)


def shortfall(judged: Sequence[Judged]) -> float:
    """How far from passing: gates that failed, and less than one for the largest gap to a bar, measured by the bar."""
    gaps = []
    for one in judged:
        if not one.passed:
            value, bound = one.measured if one.held is None else one.held, bars.parse(one.gate).bound
            gaps.append(math.inf if value is None else abs(value - bound) / (abs(bound) or 1.0))
    return len(gaps) + math.atan(max(gaps, default=0.0)) / math.pi
