"""Gates in a build: bundles are measured in the folders where they are made, and those that fail aren't published."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from edgekit import bundle, card, evidence, measuring
from edgekit.atomic import atomic_file, atomic_folder
from edgekit.errors import GateError
from edgekit.evidence import Evidence, Rung
from edgekit.measuring import Found
from edgekit.orders import Order
from edgekit.progress import Progress
from edgekit.project import BuildSpec
from edgekit.trial import Trial, asks_speed

if TYPE_CHECKING:
    from edgekit.build import Built
    from edgekit.converters.gguf.plan import Plan
    from edgekit.opening import Opened

FAILED: Final = ".failed.json"


class _Withheld(Exception):
    """Ends a bundle's folder without publishing it."""


@dataclass
class Reference:
    """The unquantized model, written beside the first bundles that need it, and kept as long as they are made."""

    path: Path
    kind: str
    written: bool = False

    def plans(self, inputs: Opened) -> list[Plan]:
        """What is still to be written: nothing the second time."""
        from edgekit.converters.gguf import plan, presets

        return [] if self.written else [plan.plan(inputs.layout, presets.preset(self.kind))]


@dataclass
class Judge:
    """Measures bundles, writes what was found into their manifests and cards, and knows which aren't to be published.

    A ``strict`` one holds the bad end of a figure's interval against its bar, and keeps no record of each failure:
    it is for a search, which tells of all that it tried in ``ladder``.
    """

    trial: Trial
    reference: Reference | None
    strict: bool = False
    ladder: list[Rung] = field(default_factory=list)
    withheld: set[Path] = field(default_factory=set)

    def plans(self, inputs: Opened) -> list[tuple[Plan, Path]]:
        """What has to be written besides the bundles, and where."""
        reference = self.reference
        return [(plan, reference.path) for plan in reference.plans(inputs)] if reference else []

    @contextmanager
    def published(self, final: Path, *, force: bool) -> Iterator[Path]:
        """As ``atomic_folder``; a bundle that failed leaves only its manifest, with the evidence, as NAME.failed.json."""
        place = failed_place(final)
        try:
            with atomic_folder(final, force=force) as folder:
                self.withheld.discard(folder)  # of an earlier one of that name
                yield folder
                if folder in self.withheld:
                    if not self.strict:
                        with atomic_file(place, force=True) as temporary:
                            shutil.copyfile(folder / bundle.MANIFEST, temporary)
                    raise _Withheld
        except _Withheld:
            return
        place.unlink(missing_ok=True)

    def finish(
        self,
        spec: BuildSpec,
        work: Sequence[tuple[Order, Path]],
        manifests: Sequence[bundle.Manifest],
        progress: Progress,
    ) -> list[bundle.Manifest]:
        """Measure what is made, and write the final manifests and cards; what failed is ``withheld``."""
        if self.reference:
            self.reference.written = True
        found = measuring.measured(spec, self.reference.path if self.reference else None, work, progress)
        finished = []
        for (order, folder), manifest in zip(work, manifests, strict=True):
            if (its := found.get(order.quantization)) is not None:
                manifest = self._judged(order, folder, manifest, its)
            manifest = card.add(folder, manifest)
            bundle.write_json(folder / bundle.MANIFEST, manifest)
            finished.append(manifest)
        return finished

    def _judged(self, order: Order, folder: Path, manifest: bundle.Manifest, its: Found) -> bundle.Manifest:
        gates = measuring.gates_of(self.trial, order)
        row = its.row if asks_speed(gates) else msgspec.structs.replace(its.row, speed=None)
        judged = (measuring.held if self.strict else measuring.plain)(gates, row)
        passed = all(one.passed for one in judged)
        if not passed:
            self.withheld.add(folder)
        if self.strict:
            self.ladder.append(Rung(row.quantization, row.size, passed, judged))
        if not (judged or self.trial.refers):
            return manifest
        quality = measuring.evidence_of(self.trial, its, row, judged, self.ladder if self.strict else [])
        speed = None if row.speed is None else evidence.plain(row.speed)
        return msgspec.structs.replace(manifest, quality=evidence.plain(quality), speed=speed)


@contextmanager
def judge(spec: BuildSpec, known: Judge | None = None) -> Iterator[Judge]:
    """For one build; its reference, where one is needed, lies beside the bundles until the end. ``known``: that of a larger one."""
    if known is not None:
        yield known
        return
    if not spec.trial.refers:
        yield Judge(spec.trial, None)
        return
    spec.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".edgekit-", dir=spec.out) as folder:
        yield Judge(spec.trial, Reference(Path(folder) / "reference.gguf", spec.trial.reference_type))


def require(built: Iterable[Built]) -> None:
    """``GateError`` that names every gate that failed, by bundle; nothing where all were published."""
    failed = [
        f"{_called(one, found)}: {evidence.explained(its)}"
        for one in built
        if not one.published and (found := evidence.of(one.manifest))
        for its in found.gates
        if not its.passed
    ]
    if failed:
        count = "1 gate" if len(failed) == 1 else f"{len(failed)} gates"
        raise GateError(f"{count} failed", found="; ".join(failed))


def _called(built: Built, found: Evidence) -> str:
    name = built.folder.name
    if not found.ladder:
        return name
    return f"{name}: nothing passes, {built.manifest.quantization} came nearest of {len(found.ladder)}"


def failed_place(final: Path) -> Path:
    """Where the evidence of a bundle goes that failed."""
    return final.with_name(final.name + FAILED)
