"""The importance matrix of a merged model, computed on a user's data: what its weights are multiplied with there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit import importance_data, importance_worker, proof, room
from edgekit.atomic import atomic_file
from edgekit.budget import AUTO
from edgekit.errors import InputError
from edgekit.importance_data import CHUNK, Data
from edgekit.importance_worker import Collect, Counted, Cut, Written
from edgekit.opening import Opened, opened
from edgekit.progress import Progress
from edgekit.project import BuildSpec

if TYPE_CHECKING:
    from edgekit.converters.gguf.imatrix import ImportanceMatrix
    from edgekit.converters.gguf.plan import Layout

MATRIX: Final = "imatrix.gguf"
RUN_AS: Final = ("Q8_0", "F16", "BF16", "F32")
"""What the merged model may be run as; it is written for that beside the matrix, and removed."""
_MODEL, _TOKENS = "model.gguf", "tokens.bin"


@dataclass(frozen=True)
class Options:
    """How to calibrate: tokens in a chunk, chunks at most, and the type that the model is run as.

    Unset, a chunk has 512 tokens, or as many as the model's context.
    """

    chunk: int | None = None
    chunks: int | None = None
    run_as: str = RUN_AS[0]

    def __post_init__(self) -> None:
        if self.chunk is not None and not 16 <= self.chunk <= 1 << 20:
            raise InputError("a chunk's length is out of range", found=self.chunk, expected="16 to 1,048,576")
        if self.chunks is not None and self.chunks < 1:
            raise InputError("a calibration needs a chunk", found=self.chunks, expected="at least 1")
        if self.run_as not in RUN_AS:
            raise InputError(
                "not a type to calibrate with", found=self.run_as, expected=f"one of {', '.join(RUN_AS)}"
            )


@dataclass(frozen=True)
class Calibrated:
    """A matrix that was written: how many weights it has, and the tokens that it was computed on."""

    path: Path
    weights: int
    tokens: int
    sequences: int
    tokens_sha256: str


def calibrate(
    spec: BuildSpec,
    data: Path,
    out: Path,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """Merge, write as ``options.run_as``, read ``data`` with llama.cpp, and write the importance matrix to ``out``.

    Everything is checked before a weight is read, and nothing is left on an error: ``InputError`` for data or a base
    that can't be used, other errors of ``edgekit.errors`` as in a build. ``out`` is replaced only with ``spec.force``.
    """
    return _calibrated(spec, data, out, options or Options(), progress or Progress())


def _calibrated(
    spec: BuildSpec, data: Path, out: Path, options: Options, progress: Progress, *, building: bool = False
) -> Calibrated:
    """``building`` also checks that the build's plans can be made of it."""
    with atomic_file(out, force=spec.force) as temporary:
        found = importance_data.read(data, spec.prompt, spec.system, spec.output_schema)
        plain = replace(
            spec, quantizations=(options.run_as,), imatrix=None, calibration=None, tensor_types=(),
            split_size=None, out=out.parent, budget=None, recipe=None, refine=False,
        )  # fmt: skip
        with opened(plain, progress) as inputs:
            for note in inputs.notes:
                progress.note(note)
            chunk = chunk_of(inputs, options)
            if building:
                check_build(spec, inputs.layout)
            work = tempfile.TemporaryDirectory(prefix=".edgekit-", dir=out.parent)
            with work as folder:
                job = _Job(inputs, found, chunk, options.chunks, Path(folder), temporary)
                counted, written = _measured(job, progress)
    return Calibrated(out, written.weights, counted.tokens, counted.sequences, counted.sha256)


def check_build(spec: BuildSpec, layout: Layout) -> None:
    """What a build refuses must not wait until the model has read everything."""
    from edgekit.converters.gguf import plan, presets

    chosen = [presets.preset(name) for name in spec.quantizations if name != AUTO]
    overrides = [presets.Override.parse(text) for text in spec.tensor_types]
    for preset in chosen:
        plan.plan(layout, preset, overrides, matrix_of(layout, MATRIX), spec.split_size)


def chunk_of(inputs: Opened, options: Options) -> int:
    """Tokens of a chunk; ``InputError`` for more than the model's context."""
    from edgekit.plan import artifact

    trained = artifact(inputs.plans[0]).shape.trained
    chunk = options.chunk or min(CHUNK, trained)
    if chunk > trained:
        raise InputError(
            "a chunk is longer than the model's context",
            path=inputs.spec.base,
            found=f"{chunk:,} tokens",
            expected=f"at most {trained:,}",
            next_step=f"pass --chunk {trained}",
        )
    return chunk


@dataclass(frozen=True)
class _Job:
    """What is measured, and where the model is meanwhile."""

    inputs: Opened
    data: Data
    chunk: int
    chunks: int | None
    folder: Path
    out: Path


def _measured(job: _Job, progress: Progress) -> tuple[Counted, Written]:
    """Tokens and matrix."""
    inputs, artifact, tokens = job.inputs, job.folder / _MODEL, str(job.folder / _TOKENS)
    counts = []

    def cut(artifact: Path) -> None:
        if inputs.layout.vocabulary:
            proof.prove(inputs, artifact)
        counts.append(importance_worker.run(Cut(str(artifact), job.data, job.chunk, job.chunks, tokens)))

    if inputs.layout.origin and not inputs.adapters and inputs.spec.base.is_file():
        artifact = inputs.spec.base  # it is what would be written
        cut(artifact)
    else:
        write_model(inputs, artifact, cut, progress)
    (counted,) = counts
    assert isinstance(counted, Counted)
    progress.stage(f"reading {counted.tokens:,} tokens", counted.tokens)
    threads, name = proof.usable_threads(inputs.spec), Path(job.data.path).name
    request = Collect(str(artifact), tokens, name, job.chunk, threads, str(job.out))
    written = importance_worker.run(request, lambda tokens: progress.advance(name, tokens))
    assert isinstance(written, Written)
    if written.unseen:
        progress.note(_unseen(written))
    return counted, written


def write_model(inputs: Opened, artifact: Path, cut: Callable[[Path], None], progress: Progress) -> None:
    """Write the only plan of ``inputs``; ``cut`` is called when its header stands."""
    from edgekit.converters.gguf import stream

    (plan,) = inputs.plans
    room.check(artifact.parent, plan.data_bytes)
    progress.stage(
        f"{'merging to' if inputs.adapters else 'writing'} {plan.preset.name}", inputs.layout.parameters
    )
    try:
        stream.write(
            [plan], [artifact], proof.usable_threads(inputs.spec), prove=cut, report=progress.advance,
            allow_nonfinite=inputs.spec.allow_nonfinite,
        )  # fmt: skip
    except OSError as error:
        raise room.disk_error(error, artifact.parent) from error


def _unseen(written: Written) -> str:
    most = max(written.unseen, key=lambda name: (written.unseen[name], name))
    return (
        f"{sum(written.unseen.values())} experts of {len(written.unseen)} weights were sent no token, such as "
        f"{written.unseen[most]} of {most}: their columns count alike. More data reaches more of them"
    )


@contextmanager
def calibrated(spec: BuildSpec, progress: Progress) -> Iterator[BuildSpec]:
    """A build's spec with its ``calibration`` as an importance matrix: the file itself, or one computed of data here."""
    if spec.calibration is None:
        yield spec
    elif is_matrix(spec.calibration):
        yield replace(spec, imatrix=spec.calibration, calibration=None)
    else:
        spec.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".edgekit-", dir=spec.out) as folder:
            matrix = Path(folder) / MATRIX
            _calibrated(spec, spec.calibration, matrix, Options(), progress, building=True)
            yield replace(spec, imatrix=matrix, calibration=None)


def foreseen(spec: BuildSpec, layout: Layout) -> ImportanceMatrix | None:
    """What a build computes of its calibration data, for a plan: its values aren't known, its names and sizes are."""
    if spec.calibration is None:
        return None
    importance_data.read(spec.calibration, spec.prompt, spec.system, spec.output_schema)
    return matrix_of(layout, spec.calibration.name)


def matrix_of(layout: Layout, dataset: str) -> ImportanceMatrix:
    """A matrix of ones, with the names and sizes that one computed of this model would have."""
    import numpy as np

    from edgekit.converters.gguf.imatrix import ImportanceMatrix

    shapes = {t.name: t.shape for t in layout.tensors if t.name.startswith("blk.") and len(t.shape) > 1}
    sizes = {name: shape[-1] * (shape[-3] if len(shape) > 2 else 1) for name, shape in shapes.items()}
    values = {name: np.ones(size, np.float32) for name, size in sizes.items() if name.endswith(".weight")}
    return ImportanceMatrix(Path(MATRIX), values, dataset, 1)


def is_matrix(path: Path) -> bool:
    """Whether a calibration file is a GGUF file rather than data."""
    if not path.is_file():
        return False  # reading it as data says so
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"
