"""Bundles that are made by way of a merged checkpoint: ONNX, GPTQ, AWQ. Then probes, and the same bundle as ever."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from edgekit import bundle, checkpoint_formats, golden, judging, measuring, room, worker
from edgekit.atomic import check_free
from edgekit.checkpoint_formats import Form
from edgekit.errors import InputError
from edgekit.judging import Judge
from edgekit.opening import Opened, opened
from edgekit.orders import Order, folder_of
from edgekit.progress import Progress
from edgekit.project import BuildSpec
from edgekit.proof import usable_threads
from edgekit.provenance import provenance
from edgekit.units import size

if TYPE_CHECKING:
    from edgekit.build import Built

_FOREIGN: Final = {
    "tensor_types": "--tensor-type", "imatrix": "--imatrix", "calibration": "--calibration", "budget": "a budget",
    "recipe": "--recipe", "refine": "--refine", "llama_cpp": "--with-llama-cpp", "split_size": "--split-size",
    "devices": "--target",
}  # fmt: skip
"""What only a GGUF can be built with, but for data to calibrate on."""


def build(spec: BuildSpec, progress: Progress, judge: Judge | None = None) -> list[Built]:
    """One bundle per precision, or none; see ``edgekit.build.build``, and the format's converter for what it raises."""
    from edgekit.build import Built

    form = checkpoint_formats.of(spec)
    wanted = _orders(spec, form)
    form.check()
    for order in wanted:
        check_free(order.folder, force=spec.force)
    if judge is None:
        measuring.check(spec)
    with judging.judge(spec, judge) as its, opened(spec, progress, plans=False) as inputs:
        for note in inputs.notes:
            progress.note(note)
        manifests, work = _made(inputs, form, wanted, its, progress)
        return [
            Built(order.folder, manifest, None, folder not in its.withheld)
            for (order, folder), manifest in zip(work, manifests, strict=True)
        ]


def _orders(spec: BuildSpec, form: Form) -> list[Order]:
    foreign = [
        said for name, said in _FOREIGN.items() if getattr(spec, name) and not (name == "calibration" and form.calibrated)
    ]  # fmt: skip
    if foreign:
        raise InputError(
            f"{form.said} can't be built with this", found=", ".join(foreign),
            expected=f"--quant and --{form.option}", next_step="--format gguf takes it",
        )  # fmt: skip
    if spec.base.is_file():
        raise InputError(
            f"{form.said} is built from a checkpoint", path=spec.base, found="a file", expected="its folder"
        )
    names = list(dict.fromkeys(form.named(name) for name in spec.quantizations))
    return [Order(name, folder_of(replace(spec, quantizations=(name,)))) for name in names]


def _made(
    inputs: Opened, form: Form, wanted: Sequence[Order], judge: Judge, progress: Progress
) -> tuple[list[bundle.Manifest], list[tuple[Order, Path]]]:
    spec, stop = inputs.spec, threading.Event()
    with ThreadPoolExecutor(1, "hash") as hashing, ExitStack() as stack:
        work = [
            (order, stack.enter_context(judge.published(order.folder, force=spec.force))) for order in wanted
        ]
        stack.callback(stop.set)
        sources = hashing.submit(provenance, inputs, stop)
        try:
            checkpoint = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix=".edgekit-", dir=spec.out))
            )
            _merge(inputs, checkpoint, judge, progress)
            form.prepare(checkpoint)
            for order, folder in work:
                _export(form, order, checkpoint, folder / spec.format, progress)
            made = msgspec.structs.replace(sources.result(), calibration=form.calibration())
            manifests = [_packed(spec, form, order, folder, made, progress) for order, folder in work]
            return judge.finish(spec, work, manifests, progress), work
        except OSError as error:
            raise room.disk_error(error, spec.out) from error


def _merge(inputs: Opened, checkpoint: Path, judge: Judge, progress: Progress) -> None:
    """The checkpoint that the converter takes, and the reference that the judge needs."""
    from edgekit.converters import save
    from edgekit.converters.gguf import stream
    from edgekit.merging import SHARD_BYTES

    spec, merged, beside = inputs.spec, inputs.merged, judge.plans(inputs)
    dtype: Literal["F32"] | None = (
        "F32" if inputs.adapters else None
    )  # what a merge adds must not be rounded twice
    shards = save.plan(merged, dtype, SHARD_BYTES)
    room.check(spec.out, 2 * save.nbytes(shards) + sum(plan.data_bytes for plan, _ in beside))
    threads = usable_threads(spec)
    progress.stage("merging" if inputs.adapters else "reading", inputs.layout.parameters)
    save.save(
        merged, inputs.words, checkpoint, dtype=dtype, shard_bytes=SHARD_BYTES, threads=threads,
        report=progress.advance,
    )  # fmt: skip
    if beside:
        progress.stage("writing the reference", inputs.layout.parameters)
        stream.write(
            [plan for plan, _ in beside], [path for _, path in beside], threads, report=progress.advance
        )


def _export(form: Form, order: Order, checkpoint: Path, out: Path, progress: Progress) -> None:
    from edgekit.files import read_json

    layers = read_json(checkpoint / "config.json").get("num_hidden_layers")
    progress.stage(f"making {order.quantization}", (layers if isinstance(layers, int) else 0) + form.steps)
    found = form.export(checkpoint, out, order.quantization, progress.advance)
    peak = "" if found.peak is None else f" and {size(found.peak)} of memory at the peak"
    progress.note(f"{order.folder.name}: {form.tool} took {found.seconds:.1f} s{peak}")


def _packed(
    spec: BuildSpec, form: Form, order: Order, folder: Path, sources: bundle.Provenance, progress: Progress
) -> bundle.Manifest:
    first = form.first(folder / spec.format)
    if form.runs_here:
        recorded = worker.run(worker.Record(str(first), usable_threads(spec), spec.prompt))
        assert isinstance(recorded, worker.Recorded)
        golden.save(recorded.golden, folder)
    else:
        progress.note(f"{order.folder.name}: made for {spec.onnx.provider}, so nothing of it was run here")
    manifest = bundle.Manifest(
        schema_version=bundle.SCHEMA_VERSION,
        name=spec.name,
        version=spec.version,
        counter=spec.counter,
        format=spec.format,
        quantization=order.quantization,
        files=bundle.list_files(folder),
        provenance=sources,
        requirements=bundle.Requirements(_memory(first, form), form.runtime),
        prompt=spec.prompt,
        system=spec.system,
        output_schema=dict(spec.output_schema) if spec.output_schema is not None else None,
        intended_use=spec.intended_use,
        settings=form.settings,
    )
    bundle.write_json(folder / bundle.MANIFEST, manifest)
    return manifest


def _memory(first: Path, form: Form) -> dict[str, int]:
    from edgekit.choosing import artifact_of
    from edgekit.profiles.planning import memory_by_context

    found = memory_by_context(artifact_of(first).shape, kv_type=form.kv_type, runtime=form.runtime)
    return {str(context): nbytes for context, nbytes in found.items()}
