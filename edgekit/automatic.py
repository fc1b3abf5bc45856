"""``--quant auto`` and ``--refine``: find the types and the rounding that lose the least on the calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from msgspec import structs

from edgekit import recipe as recipes
from edgekit.allocation import Allocation, Candidate
from edgekit.budget import AUTO
from edgekit.costs import Costs, learn
from edgekit.errors import InputError
from edgekit.gathering import Gathered, gathered
from edgekit.importance import MATRIX, calibrated, is_matrix
from edgekit.ladder import Ladder
from edgekit.progress import Progress
from edgekit.project import BuildSpec
from edgekit.rounding import Rounding
from edgekit.trials import Trials

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType as Q

    from edgekit.converters.gguf.plan import Layout
    from edgekit.converters.gguf.presets import Preset

STRENGTHS: Final = (1.0, 0.75)
"""Of error feedback, to choose from: passing on all of an error fits a small sample too well."""
SEARCHES: Final = 5
"""Files that are tried to meet a divergence."""


@dataclass(frozen=True)
class Ready:
    """A build's spec with its importance matrix computed, and how quantizations are rounded that aren't plain."""

    spec: BuildSpec
    roundings: Mapping[str, Rounding] = field(default_factory=dict)


@contextmanager
def prepared(spec: BuildSpec, progress: Progress) -> Iterator[Ready]:
    """Do what a build does before it can plan: calibrate, choose types, choose a rounding."""
    recipe = recipes.read(spec.recipe) if spec.recipe and spec.has_auto else None
    spread = recipe is not None and recipe.rounding == "feedback"
    if spread and spec.calibration is None:
        raise InputError(
            "the recipe rounds with error feedback, which needs the data that it was found on",
            path=spec.recipe,
            next_step='pass --calibration FILE, or change the recipe to rounding = "nearest"',
        )
    if not (spec.refine or spread or (spec.has_auto and spec.budget)):
        with calibrated(spec, progress) as ready:
            yield Ready(ready, {} if recipe is None else {AUTO: _listed(recipe)})
        return
    _check_data(spec)
    with gathered(spec, progress, lambda layout: _check(spec, layout)) as found:
        roundings = _Chooser(spec, found, recipe).all()
        found.forget()
        yield Ready(replace(spec, imatrix=found.folder / MATRIX, calibration=None, refine=False), roundings)


def _check_data(spec: BuildSpec) -> None:
    if spec.calibration is not None and is_matrix(spec.calibration):
        raise InputError(
            "choosing types and refining need the data itself: an importance matrix says too little",
            path=spec.calibration,
            expected="text or records like what the model will see",
        )


def _check(spec: BuildSpec, layout: Layout) -> None:
    """Refuse a budget that can't be kept, before a weight is read."""
    if spec.has_auto and spec.budget:
        Ladder(spec, layout).check(spec.budget)


def _listed(recipe: recipes.Recipe) -> Rounding:
    from edgekit.converters.gguf import presets

    preset = replace(presets.preset(recipe.preset), name=AUTO)
    return Rounding(preset, patterns=recipe.types)


class _Chooser:
    """Finds a rounding for every quantization of a build."""

    def __init__(self, spec: BuildSpec, found: Gathered, recipe: recipes.Recipe | None) -> None:
        self.spec, self.found, self.recipe = spec, found, recipe
        self.trials = Trials(found)
        self.ladder = Ladder(spec, found.inputs.layout)

    def all(self) -> dict[str, Rounding]:
        """By the quantization's name."""
        from edgekit.converters.gguf import presets

        roundings = {}
        for name in dict.fromkeys(presets.preset(one).name for one in self.spec.quantizations):
            if name != AUTO:
                if self.spec.refine and (refined := self._refined(presets.PRESETS[name])):
                    roundings[name] = refined
            elif self.recipe is not None:
                listed = _listed(self.recipe)
                strength = self.recipe.strength if self.recipe.rounding == "feedback" else 0.0
                roundings[name] = replace(listed, feedback=self.trials.feedback(strength))
            else:
                roundings[name] = self._automatic()
        return roundings

    def _refined(self, preset: Preset) -> Rounding | None:
        """A preset's own types, rounded in the way that loses least; None where there is but one way."""
        fixed = self.ladder.fixed
        plans = {
            label: self.trials.plan(fixed, strength, preset)
            for label, strength in _labels(preset.name).items()
        }
        if not any(placed.feedback for placed in next(iter(plans.values())).tensors):
            return None
        klds = self.trials.measure(plans)
        best = min(klds, key=klds.__getitem__)
        types = {
            placed.mapped.name: placed.kind
            for placed in plans[best].tensors
            if placed.mapped.name in self.ladder.shapes
        }
        tried = [Candidate(name, plans[name].file_bytes, klds[name], name == best) for name in plans]
        strength = _labels(preset.name)[best]
        return Rounding(
            preset,
            feedback=self.trials.feedback(strength),
            allocation=self._allocation(f"{preset.name}, refined", types, strength, tried, {}),
        )

    def _automatic(self) -> Rounding:
        """Types of single tensors under the budget."""
        budget = self.spec.budget
        assert budget is not None
        costs = learn(self.found, self.ladder.kinds, self.trials)
        if budget.max_kld is None:
            types = self.ladder.under(costs.options, self.ladder.bytes_of(budget))
            best, tried = self._best(types)
        else:
            types, best, tried = self._searched(costs, budget.max_kld)
        losses = {name: one.loss for name in types for one in costs.options[name] if one.kind is types[name]}
        found = self._allocation(budget.asked, types, best, tried, losses)
        preset = self.ladder.preset(types)
        return Rounding(
            preset, types, {}, self.trials.feedback(best), found, self._recipe(found, preset, best)
        )

    def _best(self, types: Mapping[str, Q]) -> tuple[float, list[Candidate]]:
        """The strength that loses least, and what was tried."""
        labels = _labels("auto")
        preset = self.ladder.preset(types)
        plans = {label: self.trials.plan(types, strength, preset) for label, strength in labels.items()}
        klds = self.trials.measure(plans)
        best = min(klds, key=klds.__getitem__)
        return labels[best], [
            Candidate(name, plans[name].file_bytes, klds[name], name == best) for name in plans
        ]

    def _searched(self, costs: Costs, bar: float) -> tuple[dict[str, Q], float, list[Candidate]]:
        """The smallest file found that stays below the bar: guided by predictions, decided by measurements."""
        ratio, tried = costs.ratio, dict[int, Candidate]()
        kept: tuple[dict[str, Q], Candidate] | None = None
        low, high = self.ladder.floor, self.ladder.ceiling
        while len(tried) < SEARCHES and low < high:
            last = kept is None and len(tried) == SEARCHES - 1
            types = self.ladder.most if last else self.ladder.reaching(costs.options, bar / ratio, low, high)
            plan = self.trials.plan(types, STRENGTHS[0], self.ladder.preset(types))
            if plan.data_bytes in tried:
                break
            label = f"try {len(tried) + 1}"
            kld = self.trials.measure({label: plan})[label]
            tried[plan.data_bytes] = candidate = Candidate(label, plan.file_bytes, kld)
            predicted = sum(
                one.loss for name in types for one in costs.options[name] if one.kind is types[name]
            )
            # A little beyond the last measurement: else a step that only just misses is taken again.
            ratio = max(kld, 1e-12) / max(predicted, 1e-12) * (1.05 if kld > bar else 1.0)
            if kld <= bar:
                kept = types, candidate
                high = plan.data_bytes - 1
            else:
                low = plan.data_bytes + 1
        assert kept is not None  # F16 is the reference itself
        types, best = kept
        return types, STRENGTHS[0], [structs.replace(one, kept=one is best) for one in tried.values()]

    def _allocation(
        self,
        asked: str,
        types: Mapping[str, Q],
        strength: float,
        tried: Sequence[Candidate],
        losses: Mapping[str, float],
    ) -> Allocation:
        return Allocation(
            asked=asked,
            bits=round(self.ladder.bits(types), 4),
            types={name: kind.name for name, kind in types.items()},
            rounding="feedback" if strength else "nearest",
            strength=strength,
            sensitivity={name: float(f"{loss:.4g}") for name, loss in losses.items()},
            tokens=self.trials.tokens,
            candidates=list(tried),
        )

    def _recipe(self, found: Allocation, preset: Preset, strength: float) -> str:
        from edgekit.converters.gguf import presets

        written = recipes.Recipe(
            recipes.FORMAT,
            presets.nearest(preset),
            recipes.patterns(found.types),
            found.rounding,
            strength or 1.0,
        )
        return recipes.text(written, found.asked)


def _labels(name: str) -> dict[str, float]:
    """Ways to round, by what they are called: strengths of error feedback, 0 for none."""
    return {f"{name}, feedback {strength:g}": strength for strength in STRENGTHS} | {f"{name}, nearest": 0.0}
