"""What a report is made of: bundles, the evidence in their manifests, and evaluations that were kept as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from edgekit import evidence
from edgekit.bundle import MANIFEST, Bundle, Manifest, model_files
from edgekit.errors import BundleError, InputError
from edgekit.evaluation.figures import TaskFigures
from edgekit.evaluation.running import Speed
from edgekit.evaluation.text import TextFigures
from edgekit.evidence import Judged
from edgekit.files import MALFORMED, read_bounded, real
from edgekit.gguf_shards import read_shards

_LIMIT: Final = 1 << 28


@dataclass(frozen=True)
class Entry:
    """A bundle and all that is known of it."""

    label: str
    manifest: Manifest
    size: int
    """Bytes of the model's files."""
    types: Mapping[str, str]
    """Of every weight, by GGUF name."""
    text: TextFigures | None = None
    task: TaskFigures | None = None
    speed: Speed | None = None
    gates: Sequence[Judged] = ()
    reference: str | None = None
    """What it was held against."""

    @property
    def measured(self) -> bool:
        """Whether anything is known of its quality."""
        return self.text is not None or self.task is not None

    @property
    def kld(self) -> float | None:
        """Mean KL divergence to the reference, nats."""
        return None if self.text is None or self.text.reference is None else self.text.reference.kld.value

    @property
    def f1(self) -> float | None:
        """Of all fields together."""
        return None if self.task is None else self.task.micro.f1

    @property
    def passed(self) -> bool | None:
        """Whether all gates passed; None where there are none."""
        return all(gate.passed for gate in self.gates) if self.gates else None


class _Row(msgspec.Struct):
    """A model of an evaluation's document, as far as a report shows it."""

    label: str
    size: int
    sha256: str
    quantization: str
    text: TextFigures | None = None
    task: TaskFigures | None = None
    speed: Speed | None = None
    gates: list[Judged] = []


class _Document(msgspec.Struct):
    bundles: list[_Row]
    reference: _Row | None = None


def collect(paths: Sequence[Path], evaluations: Sequence[Path] = ()) -> list[Entry]:
    """All bundles in ``paths``, which are bundles or folders of bundles, smallest first; figures of evaluations come first.

    Raises ``InputError`` where there is no bundle, and for a file that isn't what ``edgekit eval -o`` writes.
    """
    folders = list(dict.fromkeys(real(folder) for path in paths for folder in _folders(path)))
    rows: dict[str, tuple[_Row, str | None]] = {}
    for path in evaluations:
        document = _read(path)
        against = document.reference.quantization if document.reference else None
        rows |= {row.sha256: (row, against) for row in document.bundles}
    entries = [_entry(folder, _label(folder, folders), rows) for folder in folders]
    return sorted(entries, key=lambda entry: (entry.size, entry.label))


def _folders(path: Path) -> list[Path]:
    if (path / MANIFEST).is_file():
        return [path]
    found = sorted(place.parent for place in path.glob(f"*/{MANIFEST}")) if path.is_dir() else []
    found = [folder for folder in found if not folder.name.startswith(".")]
    if not found:
        raise InputError(
            "there are no bundles here", path=path, expected="a folder of bundles, as edgekit build makes it"
        )
    return found


def _label(folder: Path, every: Sequence[Path]) -> str:
    alone = sum(other.name == folder.name for other in every) == 1
    return folder.name if alone else "/".join(folder.parts[-2:])


def _entry(folder: Path, label: str, rows: Mapping[str, tuple[_Row, str | None]]) -> Entry:
    bundle = Bundle.open(folder)
    about = bundle.manifest
    try:
        found, speed = evidence.of(about), evidence.speed_of(about)
        parts = [] if about.format != "gguf" else read_shards(bundle.artifact)
    except (BundleError, InputError) as error:
        raise BundleError(error.what, path=folder / MANIFEST, found=error.found) from error
    types = {t.name: t.kind for _, header in parts for t in header.tensors if len(t.dimensions) > 1}
    files = model_files(about)
    entry = Entry(label, about, sum(file.size for file in files), types, speed=speed)
    if found is not None:
        figures = found.text_figures, found.task_figures
        entry = replace(
            entry, text=figures[0], task=figures[1], gates=tuple(found.gates), reference=found.reference
        )
    known = next((rows[file.sha256] for file in files if file.sha256 in rows), None)
    return entry if known is None else _with(entry, *known)


def _with(entry: Entry, row: _Row, reference: str | None) -> Entry:
    """A later evaluation's figures, where it has some."""
    return replace(
        entry,
        text=row.text or entry.text,
        task=row.task or entry.task,
        speed=row.speed or entry.speed,
        gates=tuple(row.gates) or entry.gates,
        reference=reference or entry.reference,
    )


def _read(path: Path) -> _Document:
    try:
        return msgspec.json.decode(read_bounded(path, _LIMIT), type=_Document)
    except MALFORMED as error:
        raise InputError(
            "not an evaluation that can be read",
            path=path,
            found=str(error),
            expected="a file of edgekit eval -o",
        ) from error
