"""The pipeline: open, lint, merge, convert and quantize in one pass, probe, pack."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit import bundle, golden, judging, measuring, proof, room, smallest, worker
from edgekit.atomic import check_free
from edgekit.automatic import Ready, prepared
from edgekit.files import share
from edgekit.judging import Judge
from edgekit.opening import Opened, opened
from edgekit.orders import Order, orders
from edgekit.progress import Once, Progress
from edgekit.project import BuildSpec
from edgekit.proof import usable_threads
from edgekit.provenance import provenance
from edgekit.recipe import FILE as RECIPE
from edgekit.rounding import Rounding

if TYPE_CHECKING:
    from edgekit.converters.gguf.plan import Plan
    from edgekit.converters.gguf.stream import Timing

ARTIFACT = "model.gguf"


@dataclass(frozen=True)
class Built:
    """A bundle, and how its conversion went."""

    folder: Path
    manifest: bundle.Manifest
    timing: Timing | None
    """None where it was taken from a cache."""
    published: bool = True
    """Not where it failed a gate: ``folder`` is then what it was before."""

    @property
    def size(self) -> int:
        """Bytes of the artifact, all its files."""
        return sum(file.size for file in bundle.model_files(self.manifest))


def build(spec: BuildSpec, progress: Progress | None = None, judge: Judge | None = None) -> list[Built]:
    """Build and publish one bundle per quantization and device, in one pass over the model; or none, on any error.

    Raises the errors of ``edgekit.errors``; what was there before is kept unless ``spec.force``. A bundle that fails a
    gate isn't published, and is no error here: ``edgekit.judging.require`` makes it one. ``judge``: of a larger build.
    """
    progress = Once(progress or Progress())  # calibrating opens the same inputs before
    _check_schema(spec)
    if spec.format != "gguf":
        from edgekit import checkpoint_build

        return checkpoint_build.build(spec, progress, judge)
    if smallest.asked(spec):
        return smallest.build(spec, progress)
    wanted = orders(spec, progress)
    for order in wanted:
        check_free(order.folder, force=spec.force)
    types = tuple(dict.fromkeys(order.quantization for order in wanted))
    if judge is None:
        measuring.check(spec)
    with prepared(replace(spec, quantizations=types), progress) as ready, judging.judge(spec, judge) as its:
        return made(ready, wanted, its, progress)


def made(ready: Ready, wanted: Sequence[Order], judge: Judge, progress: Progress) -> list[Built]:
    """Make what is wanted of a spec that names its quantizations and is calibrated, in one pass."""
    spec = ready.spec
    with opened(spec, progress, roundings=ready.roundings) as inputs:
        for note in inputs.notes:
            progress.note(note)
        beside = judge.plans(inputs)
        room.check(spec.out, sum(plan.data_bytes for plan in [*inputs.plans, *(one for one, _ in beside)]))
        stop = threading.Event()
        with ThreadPoolExecutor(1, "hash") as hashing, ExitStack() as stack:
            work = [
                (order, stack.enter_context(judge.published(order.folder, force=spec.force)))
                for order in wanted
            ]
            stack.callback(stop.set)  # an error needn't wait until gigabytes are hashed
            sources = hashing.submit(provenance, inputs, stop)
            try:
                timing = _convert(inputs, _firsts(work), beside, progress)
                manifests = _pack(inputs, work, ready.roundings, sources, progress)
                manifests = judge.finish(spec, work, manifests, progress)
            except OSError as error:
                raise room.disk_error(error, spec.out) from error
        return [
            Built(order.folder, manifest, timing, folder not in judge.withheld)
            for (order, folder), manifest in zip(work, manifests, strict=True)
        ]


Work = Sequence[tuple[Order, Path]]
"""What is made, and the folder that it is made in."""


def _firsts(work: Work) -> dict[str, Path]:
    """The folder in which each quantization is written; bundles for other devices share its files."""
    found: dict[str, Path] = {}
    for order, folder in work:
        found.setdefault(order.quantization, folder)
    return found


def _convert(
    inputs: Opened, folders: Mapping[str, Path], beside: Sequence[tuple[Plan, Path]], progress: Progress
) -> Timing:
    from edgekit.converters.gguf import stream

    progress.stage("merging and quantizing" if inputs.adapters else "quantizing", inputs.layout.parameters)
    paths = [folders[plan.preset.name] / ARTIFACT for plan in inputs.plans]
    return stream.write(
        [*inputs.plans, *(plan for plan, _ in beside)],
        [*paths, *(path for _, path in beside)],
        usable_threads(inputs.spec),
        prove=partial(proof.prove, inputs) if inputs.layout.vocabulary else None,
        report=progress.advance,
        allow_nonfinite=inputs.spec.allow_nonfinite,
    )


def _pack(
    inputs: Opened,
    work: Work,
    roundings: Mapping[str, Rounding],
    sources: Future[bundle.Provenance],
    progress: Progress,
) -> list[bundle.Manifest]:
    """Record golden probes and write each manifest."""
    progress.stage("probing and packing", len(work))
    plans = {plan.preset.name: plan for plan in inputs.plans}
    files: dict[str, list[bundle.File]] = {}
    manifests = []
    firsts = _firsts(work)
    for order, folder in work:
        first, plan = firsts[order.quantization], plans[order.quantization]
        if folder == first:
            _record(inputs, plan, folder)
            if (how := roundings.get(order.quantization)) and how.recipe:
                (folder / RECIPE).write_text(how.recipe, encoding="utf-8")
            files[order.quantization] = bundle.list_files(folder)
        else:
            share(first, [file.path for file in files[order.quantization]], folder)
        manifest = _manifest(inputs, order, plan, files[order.quantization], sources.result())
        if (how := roundings.get(order.quantization)) and how.allocation:
            manifest = msgspec.structs.replace(manifest, allocation=how.allocation)
        bundle.write_json(folder / bundle.MANIFEST, manifest)
        manifests.append(manifest)
        progress.advance(order.folder.name, 1)
    return manifests


def _record(inputs: Opened, plan: Plan, folder: Path) -> None:
    spec, artifact = inputs.spec, plan.paths(folder / ARTIFACT)[0]
    request = worker.Record(str(artifact), usable_threads(spec), spec.prompt, spec.allow_nonfinite)
    recorded = worker.run(request)
    assert isinstance(recorded, worker.Recorded)
    golden.save(recorded.golden, folder)


def _manifest(
    inputs: Opened, order: Order, plan: Plan, files: list[bundle.File], provenance: bundle.Provenance
) -> bundle.Manifest:
    spec = inputs.spec
    return bundle.Manifest(
        schema_version=bundle.SCHEMA_VERSION,
        name=spec.name,
        version=spec.version,
        counter=spec.counter,
        format="gguf",
        quantization=order.quantization,
        files=files,
        provenance=provenance,
        requirements=bundle.Requirements(_memory(plan), "llama.cpp"),
        target=order.target,
        prompt=spec.prompt,
        system=spec.system,
        output_schema=dict(spec.output_schema) if spec.output_schema is not None else None,
        intended_use=spec.intended_use,
    )


def _memory(plan: Plan) -> dict[str, int]:
    """Bytes by context in tokens, as text for JSON."""
    from edgekit.plan import artifact
    from edgekit.profiles.planning import memory_by_context

    return {str(context): nbytes for context, nbytes in memory_by_context(artifact(plan).shape).items()}


def _check_schema(spec: BuildSpec) -> None:
    """A schema that can't be enforced must not be packed."""
    if spec.output_schema is not None:
        from edgekit.runtimes.constraint import compile_schema

        compile_schema(spec.output_schema)
