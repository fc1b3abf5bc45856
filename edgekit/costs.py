"""What each type costs in each tensor, in nats of KL divergence: measured for one type, from errors for the others.

A tensor's divergence is taken to grow as its outputs' squared error, and tensors' divergences to add up: the second-order
picture of a small change. What is chosen by it is measured again as a whole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgekit import importance_worker
from edgekit.gathering import PROBES, Gathered
from edgekit.probing import Found, Weigh
from edgekit.trials import Trials

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType as Q

    from edgekit.converters.gguf.allocate import Option

_LEAST: Final = 1e-12


@dataclass(frozen=True)
class Costs:
    """Options of every tensor that is quantized; and what all probes together cost, as predicted and as measured."""

    options: Mapping[str, Sequence[Option]]
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        """How much more a whole file loses than its tensors one by one."""
        return self.measured / self.predicted if self.predicted > _LEAST else 1.0


def learn(found: Gathered, kinds: Mapping[str, Sequence[Q]], trials: Trials) -> Costs:
    """Measure every tensor; ``kinds`` are the types that it may get."""
    from edgekit.converters.gguf.allocate import Option, nbytes_of, probe_for

    shapes = {tensor.name: tensor.shape for tensor in found.inputs.layout.tensors}
    probes = {name: kind for name in kinds if (kind := probe_for(shapes[name][-1])) is not None}
    wanted = {
        name: sorted({*ones, *([probes[name]] if name in probes else [])}) for name, ones in kinds.items()
    }
    errors = _errors(found, wanted)
    groups = grouped(list(probes))
    klds, whole = _weighed(found, probes, groups, trials)
    scales = {}
    for group, kld in zip(groups, klds, strict=True):
        error = sum(errors[name][probes[name]] for name in group)
        scales.update(dict.fromkeys(group, max(kld, _LEAST) / error if error > 0 else 0.0))
    options = {
        name: [
            Option(kind, nbytes_of(kind, shapes[name]), scales.get(name, 0.0) * errors[name][kind])
            for kind in ones
        ]
        for name, ones in kinds.items()
    }
    return Costs(options, sum(klds), whole)


def _errors(found: Gathered, kinds: Mapping[str, Sequence[Q]]) -> dict[str, dict[Q, float]]:
    from edgekit.converters.gguf.sensitivity import Measures, errors

    shapes = {tensor.name: tensor.shape for tensor in found.inputs.layout.tensors}
    found.progress.stage("rounding rows of each tensor in each type", len(kinds))
    by = Measures(found.factors, found.matrix.fit(shapes))
    return errors(found.model, kinds, by, found.threads, lambda name: found.progress.advance(name, 1))


def grouped(names: Sequence[str], most: int = PROBES) -> list[list[str]]:
    """Tensors one by one; if they are too many, neighbouring layers' of a kind together."""
    parts: dict[str, list[str]] = defaultdict(list)
    for name in names:
        parts[re.sub(r"^blk\.\d+\.", "", name)].append(name)
    size = 1
    while sum(-(-len(ones) // size) for ones in parts.values()) > max(most, len(parts)):
        size += 1
    return [ones[at : at + size] for ones in parts.values() for at in range(0, len(ones), size)]


def _weighed(
    found: Gathered, probes: Mapping[str, Q], groups: Sequence[list[str]], trials: Trials
) -> tuple[list[float], float]:
    """Each group's divergence, and that of all together."""
    if not groups:
        return [], 0.0
    with trials.written({"probe": trials.plan(probes, 1.0)}) as files:
        found.progress.stage(f"measuring {len(groups)} groups of tensors", len(groups))
        request = Weigh(str(found.model), str(files["probe"]), str(found.probed), list(groups), found.threads)
        weighed = importance_worker.run(request, lambda count: found.progress.advance("group", count))
        assert isinstance(weighed, Found)
        return weighed.klds, trials.compared("probe", files["probe"])
