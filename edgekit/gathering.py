"""What choosing types and refining begin with: the merged model as F16, an importance matrix, and columns' correlations."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit import importance_data, importance_worker, proof, room
from edgekit.correlated import WIDEST, Correlations, nbytes
from edgekit.importance import MATRIX, Options, check_build, chunk_of, write_model
from edgekit.importance_data import Data
from edgekit.importance_worker import Apart, Collect, Counted, Cut, Written
from edgekit.opening import Opened, opened
from edgekit.progress import Progress
from edgekit.project import BuildSpec

if TYPE_CHECKING:
    from edgekit.converters.gguf.feedback import Factors
    from edgekit.converters.gguf.imatrix import ImportanceMatrix
    from edgekit.converters.gguf.plan import Layout

REFERENCE: Final = "F16"
MODEL: Final = "reference.gguf"
PROBES: Final = 96
"""Groups of tensors that are measured one by one, at most: neighbours of one kind are taken together beyond that."""
CHOSEN_BY: Final = (2048, 16_384)
PROBED: Final = (512, 4096)
"""Tokens, at least and at most, that candidates and single tensors' rounding are measured on."""
CHOOSING: Final = 4 * 10**12
PROBING: Final = 6 * 10**13
"""Weights times tokens that these may take: some minutes each on two cores."""


@dataclass(frozen=True)
class Gathered:
    """The opened build, and the files made of it in ``folder``, which goes when the build is done."""

    inputs: Opened
    folder: Path
    matrix: ImportanceMatrix
    factors: Factors
    chosen_by: Path
    """Token sequences that weren't gathered on, to choose by."""
    probed: Path
    """Some of those that were."""
    progress: Progress

    @property
    def model(self) -> Path:
        """The merged model as F16; gone after ``forget``."""
        return self.folder / MODEL

    @property
    def threads(self) -> int:
        """Threads to work with."""
        return proof.usable_threads(self.inputs.spec)

    def forget(self) -> None:
        """Remove what is only needed to choose."""
        self.model.unlink()


@contextmanager
def gathered(spec: BuildSpec, progress: Progress, check: Callable[[Layout], None]) -> Iterator[Gathered]:
    """Merge to F16 and read the calibration data with it; ``check`` sees the layout before a weight is read."""
    assert spec.calibration is not None
    data = importance_data.read(spec.calibration, spec.prompt, spec.system, spec.output_schema)
    spec.out.mkdir(parents=True, exist_ok=True)
    plain = replace(
        spec, quantizations=(REFERENCE,), imatrix=None, calibration=None, tensor_types=(), split_size=None,
        budget=None, recipe=None, refine=False, devices=(),
    )  # fmt: skip
    with opened(plain, progress) as inputs:
        chunk = chunk_of(inputs, Options())
        check_build(spec, inputs.layout)
        check(inputs.layout)
        for note in inputs.notes:
            progress.note(note)
        room.check(spec.out, inputs.plans[0].data_bytes + 2 * nbytes(_widths(inputs.layout)))
        with tempfile.TemporaryDirectory(prefix=".edgekit-", dir=spec.out) as name:
            yield _read(inputs, data, chunk, Path(name), progress)


def _read(inputs: Opened, data: Data, chunk: int, folder: Path, progress: Progress) -> Gathered:
    """Write the model, cut the data into tokens once its header stands, and let it read them."""
    from edgekit.converters.gguf import imatrix
    from edgekit.converters.gguf.feedback import Factors

    files = {part: folder / f"{part}.bin" for part in ("tokens", "chosen_by", "probed")}
    counts: list[Counted] = []

    def cut(artifact: Path) -> None:
        if inputs.layout.vocabulary:
            proof.prove(inputs, artifact)
        apart = Apart(str(files["chosen_by"]), str(files["probed"]), *_most(inputs.layout))
        found = importance_worker.run(Cut(str(artifact), data, chunk, None, str(files["tokens"]), apart))
        assert isinstance(found, Counted)
        counts.append(found)

    model, matrix, name = folder / MODEL, folder / MATRIX, Path(data.path).name
    write_model(inputs, model, cut, progress)
    progress.stage(f"reading {counts[0].tokens:,} tokens", counts[0].tokens)
    threads, tokens = proof.usable_threads(inputs.spec), str(files["tokens"])
    request = Collect(str(model), tokens, name, chunk, threads, str(matrix), str(folder))
    written = importance_worker.run(request, lambda count: progress.advance(name, count))
    assert isinstance(written, Written)
    factors = Factors(Correlations.open(folder))
    held = files["chosen_by"], files["probed"]
    return Gathered(inputs, folder, imatrix.read(matrix), factors, *held, progress)


def _most(layout: Layout) -> tuple[int, int]:
    """Tokens to choose by and to probe with, at most: fewer where each costs more, so that a large model takes minutes."""
    weights = max(1, layout.parameters)
    probes = min(PROBES, len(layout.tensors))
    chosen_by, probed = CHOOSING // weights, PROBING // (weights * probes)
    return (
        min(max(chosen_by, CHOSEN_BY[0]), CHOSEN_BY[1]),
        min(max(probed, PROBED[0]), PROBED[1]),
    )


def _widths(layout: Layout) -> list[int]:
    """Columns of inputs, as many at most as there will be: gate and up share one, as query, key and value do."""
    return [
        tensor.shape[-1]
        for tensor in layout.tensors
        if len(tensor.shape) == 2 and tensor.shape[-1] <= WIDEST
        if not tensor.name.endswith(("attn_k.weight", "attn_v.weight", "ffn_up.weight"))
    ]
