"""The pipeline: open, lint, merge, convert and quantize in one pass, probe, pack."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import __version__, bundle, golden, worker
from edgekit.atomic import atomic_folder
from edgekit.errors import EdgekitError, InputError
from edgekit.files import real, sha256
from edgekit.overlay import files_read, overlay
from edgekit.project import BuildSpec
from edgekit.requirements import memory_by_context

if TYPE_CHECKING:
    from edgekit.converters.adapter import Adapter
    from edgekit.converters.checkpoint import Checkpoint
    from edgekit.converters.gguf.plan import Layout, Plan
    from edgekit.converters.gguf.stream import Timing
    from edgekit.converters.lora import Merged

ARTIFACT = "model.gguf"
TOOLS = ("llama-cpp-python", "gguf", "numpy", "tokenizers")

Advance = Callable[[str, int], None]


@dataclass(frozen=True)
class Built:
    """A bundle that was published, and how its conversion went."""

    folder: Path
    manifest: bundle.Manifest
    timing: Timing

    @property
    def size(self) -> int:
        """Bytes of the artifact."""
        return next(file.size for file in self.manifest.files if file.path == ARTIFACT)


class Progress:
    """Told how a build goes; the command line draws it, the default is silent."""

    def stage(self, name: str, total: int) -> None:
        """A stage begins: ``total`` weights (or steps) lie ahead."""

    def advance(self, what: str, amount: int) -> None:
        """``amount`` of them are done; ``what`` is the tensor or file."""

    def note(self, text: str) -> None:
        """Something that a person should know of the merge."""


@dataclass(frozen=True)
class Opened:
    """A build's inputs, all of them checked, a plan per quantization, and where the tokenizer's files are."""

    spec: BuildSpec
    base: Checkpoint
    adapters: Sequence[tuple[Adapter, float]]
    merged: Merged
    layout: Layout
    plans: Sequence[Plan]
    words: Path

    def folder(self, plan: Plan) -> Path:
        """Where a plan's bundle goes: NAME-quant."""
        return self.spec.out / f"{self.spec.name}-{plan.preset.name.lower()}"


@contextmanager
def opened(spec: BuildSpec) -> Iterator[Opened]:
    """Open and check everything that a build reads, before any work; files are closed on the way out."""
    from edgekit.converters.adapter import Adapter
    from edgekit.converters.checkpoint import Checkpoint
    from edgekit.converters.gguf import families, plan, presets
    from edgekit.converters.lora import Merged

    chosen = [presets.preset(name) for name in spec.quantizations]
    if len({preset.name for preset in chosen}) != len(chosen):
        raise InputError("a quantization is named twice", found=", ".join(spec.quantizations))
    overrides = [presets.Override.parse(text) for text in spec.tensor_types]
    with ExitStack() as stack:
        base = Checkpoint(spec.base)
        stack.callback(base.close)
        families.find(base.config, spec.base / "config.json")
        adapters: list[tuple[Adapter, float]] = []
        for folder, weight in spec.adapters:
            adapter = Adapter(folder)
            stack.callback(adapter.close)
            adapters.append((adapter, weight))
        merged = Merged(base, adapters)
        words = spec.base
        if merged.tokenizer:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-"))
            words = overlay(spec.base, merged.tokenizer, Path(temporary))
        layout = plan.lay_out(merged, words, spec.name)
        plans = [plan.plan(layout, preset, overrides) for preset in chosen]
        yield Opened(spec, base, adapters, merged, layout, plans, words)


def build(spec: BuildSpec, progress: Progress | None = None) -> list[Built]:
    """Build and publish one bundle per quantization; on any error none is left half-written.

    Raises the errors of ``edgekit.errors``; what was there before is kept unless ``spec.force``.
    """
    progress = progress or Progress()
    with opened(spec) as inputs:
        for note in inputs.merged.notes:
            progress.note(note)
        folders = [inputs.folder(plan) for plan in inputs.plans]
        _check_schema(spec)
        _check_room(spec.out, inputs.plans)
        stop = threading.Event()
        with ThreadPoolExecutor(1, "hash") as hashing, ExitStack() as stack:
            temporary = [stack.enter_context(atomic_folder(folder, force=spec.force)) for folder in folders]
            stack.callback(stop.set)  # an error needn't wait until gigabytes are hashed
            provenance = hashing.submit(_provenance, inputs, stop)
            try:
                timing = _convert(inputs, temporary, progress)
                manifests = _pack(inputs, temporary, provenance, progress)
            except OSError as error:
                raise _disk_error(error, spec.out) from error
        return [Built(*parts, timing) for parts in zip(folders, manifests, strict=True)]


def _convert(inputs: Opened, folders: Sequence[Path], progress: Progress) -> Timing:
    from edgekit.converters.gguf import stream

    progress.stage("merging and quantizing" if inputs.adapters else "quantizing", inputs.layout.parameters)
    paths = [folder / ARTIFACT for folder in folders]
    prove = partial(_prove, inputs)
    return stream.write(inputs.plans, paths, _threads(inputs.spec), prove=prove, report=progress.advance)


def _threads(spec: BuildSpec) -> int:
    from edgekit.profiles.cpu import usable_cores

    return spec.threads or usable_cores()


def _prove(inputs: Opened, artifact: Path) -> None:
    """The converted vocabulary must give the same ids as the tokenizer, and end answers where the model does."""
    from edgekit.converters.gguf import probes

    vocabulary = inputs.layout.vocabulary
    tokenizer = inputs.words / vocabulary.file
    parts = vocabulary.name_parts
    if parts and not any(part in inputs.layout.name.lower() for part in parts):
        raise InputError(
            "llama.cpp runs this tokenizer right only in a model of its own name",
            path=tokenizer,
            found=inputs.layout.name,
            expected=f"a name with {' or '.join(parts)}",
            next_step=f"name the build {parts[0]}-{inputs.layout.name}",
        )
    definition = vocabulary.reference() if vocabulary.reference else ""
    proved = worker.run(worker.Prove(str(artifact), str(tokenizer), probes.of(vocabulary), definition))
    assert isinstance(proved, worker.Proved)
    if proved.mismatch:
        text, expected, found = proved.mismatch
        raise InputError(
            f"the tokenizer would not survive: {proved.mismatches} probe text(s) get other ids in llama.cpp",
            path=tokenizer,
            found=f"{found[:24]} for {text[:60]!r}",
            expected=f"{expected[:24]}",
            next_step="report the tokenizer; packing it would garble the model's input",
        )
    if missing := vocabulary.ends - set(proved.end_ids):
        raise InputError(
            "the model ends answers with tokens that llama.cpp doesn't stop at",
            path=inputs.base.folder / "generation_config.json",
            found=f"eos_token_id {sorted(missing)}",
            expected=f"among {proved.end_ids}",
            next_step="leave at most three ids in eos_token_id",
        )


def _pack(
    inputs: Opened, folders: Sequence[Path], provenance: Future[bundle.Provenance], progress: Progress
) -> list[bundle.Manifest]:
    """Record golden probes and write each manifest."""
    progress.stage("probing and packing", len(folders))
    manifests = []
    for plan, folder in zip(inputs.plans, folders, strict=True):
        request = worker.Record(str(folder / ARTIFACT), _threads(inputs.spec), inputs.spec.prompt)
        recorded = worker.run(request)
        assert isinstance(recorded, worker.Recorded)
        golden.save(recorded.golden, folder)
        manifest = _manifest(inputs, plan, folder, provenance.result())
        bundle.write_json(folder / bundle.MANIFEST, manifest)
        manifests.append(manifest)
        progress.advance(plan.preset.name, 1)
    return manifests


def _manifest(inputs: Opened, plan: Plan, folder: Path, provenance: bundle.Provenance) -> bundle.Manifest:
    spec = inputs.spec
    weights = (folder / ARTIFACT).stat().st_size
    return bundle.Manifest(
        schema_version=bundle.SCHEMA_VERSION,
        name=spec.name,
        version=spec.version,
        counter=spec.counter,
        format="gguf",
        quantization=plan.preset.name,
        files=bundle.list_files(folder),
        provenance=provenance,
        requirements=bundle.Requirements(memory_by_context(inputs.merged.config, weights), "llama.cpp"),
        prompt=spec.prompt,
        system=spec.system,
        output_schema=dict(spec.output_schema) if spec.output_schema is not None else None,
    )


def _provenance(inputs: Opened, stop: threading.Event) -> bundle.Provenance:
    """Digests of everything that was read, and the tools' versions; given up when ``stop`` is set."""
    beside = (
        "model.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
        "tekken.json", "added_tokens.json", "tokenizer_config.json", "chat_template.jinja",
        inputs.layout.vocabulary.file,
    )  # fmt: skip
    base_files = [inputs.base.folder / name for name in dict.fromkeys(beside)]
    base_files += [file.path for file in inputs.base.files]
    adapters = [
        _source(
            adapter.folder,
            files_read(adapter.folder, adapter.file.path, inputs.merged.tokenizer),
            weight,
            stop,
        )
        for adapter, weight in inputs.adapters
    ]
    tools = {"edgekit": __version__} | {name: found for name in TOOLS if (found := _version(name))}
    base = _source(inputs.base.folder, [path for path in base_files if path.exists()], None, stop)
    return bundle.Provenance(base, adapters, None, tools, inputs.spec.licence)


def _source(
    folder: Path, files: Sequence[Path], weight: float | None, stop: threading.Event
) -> bundle.Source:
    def going_on(_: int) -> None:
        if stop.is_set():
            raise CancelledError

    listed = [bundle.File(path.name, path.stat().st_size, sha256(path, going_on)) for path in files]
    return bundle.Source(real(folder).name, listed, weight)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _check_schema(spec: BuildSpec) -> None:
    """A schema that can't be enforced must not be packed."""
    if spec.output_schema is not None:
        from edgekit.runtimes.constraint import compile_schema

        compile_schema(spec.output_schema)


def _check_room(out: Path, plans: Sequence[Plan]) -> None:
    """The size is known beforehand: refuse a disk that can't hold it before working for minutes."""
    place = real(out)
    while not place.exists():
        place = place.parent
    needed = sum(plan.data_bytes for plan in plans) + (64 << 20)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InputError(
            "not enough room for the bundles",
            path=out,
            found=f"{free / 1e9:.2f} GB free",
            expected=f"{needed / 1e9:.2f} GB",
            next_step="free space, or choose another folder with -o",
        )


def _disk_error(error: OSError, out: Path) -> EdgekitError:
    return InputError(
        "writing the bundle failed",
        path=error.filename or out,
        found=os.strerror(error.errno) if error.errno else str(error),
        next_step="free space on the disk, or choose another folder with -o",
    )
