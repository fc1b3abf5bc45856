"""What is evaluated: bundles and GGUF files, looked at before any work; and the reference that they are held against."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from edgekit.bundle import MANIFEST, Bundle
from edgekit.choosing import artifact_of
from edgekit.errors import BundleError, InputError
from edgekit.files import real, sha256
from edgekit.gguf_shards import read_shards
from edgekit.progress import Progress

REFERENCE: Final = "reference"
UNQUANTIZED: Final = ("F16", "F32", "BF16")


@dataclass(frozen=True)
class Subject:
    """One model file, with what its bundle asks it where it comes in one."""

    label: str
    path: Path
    """As it was named."""
    artifact: Path
    quantization: str
    size: int
    """Bytes of all the model's files."""
    sha256: str
    """Of the file; of the digests of all files where there are several."""
    trained: int
    """Tokens of context that it was trained with."""
    prompt: str | None = None
    system: str | None = None
    schema: Mapping[str, Any] | None = None


def open_subjects(paths: Sequence[Path], progress: Progress) -> list[Subject]:
    """Look at bundles' folders and .gguf files and digest them; ``InputError`` or ``BundleError`` for anything amiss."""
    names = [real(path).name for path in paths]
    if len({real(path) for path in paths}) < len(paths):
        raise InputError("a bundle is named twice", found=", ".join(map(str, paths)))
    labels = [
        str(path) if names.count(name) > 1 or name == REFERENCE else name
        for path, name in zip(paths, names, strict=True)
    ]
    progress.stage("checking models", len(paths))
    found = []
    for path, label in zip(paths, labels, strict=True):
        found.append(open_subject(path, label))
        progress.advance(label, 1)
    return found


def open_subject(path: Path, label: str) -> Subject:
    """A bundle's folder, its digests checked, or a .gguf file."""
    bundle = Bundle.open(path) if path.is_dir() else None
    place = bundle.artifact if bundle else path
    artifact = artifact_of(place)
    files = [part for part, _ in read_shards(place)]
    digests = [sha256(part) for part in files]
    if bundle:
        _check(bundle, dict(zip(files, digests, strict=True)))
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    about = bundle.manifest if bundle else None
    return Subject(
        label=label,
        path=path,
        artifact=place,
        quantization=about.quantization if about else artifact.quantization,
        size=sum(part.stat().st_size for part in files),
        sha256=whole,
        trained=artifact.shape.trained,
        prompt=about.prompt if about else None,
        system=about.system if about else None,
        schema=about.output_schema if about else None,
    )


def _check(bundle: Bundle, digests: Mapping[Path, str]) -> None:
    for listed in bundle.manifest.files:
        found = digests.get(bundle.path_of(listed))
        if found is not None and found != listed.sha256:
            raise BundleError(
                "the artifact is not what was built",
                path=bundle.path_of(listed),
                found=f"SHA-256 {found[:16]}…",
                expected=f"{listed.sha256[:16]}…",
                next_step="copy the bundle again",
            )


def is_checkpoint(path: Path) -> bool:
    """Whether a reference has to be built first: it is a checkpoint's folder."""
    return path.is_dir() and not (path / MANIFEST).is_file()


def open_reference(
    path: Path, adapters: Sequence[tuple[Path, float]], kind: str, stack: ExitStack, progress: Progress
) -> Subject:
    """The reference: a bundle or a .gguf file as it is; a checkpoint, or adapters on anything, built in type ``kind``.

    What is built lives in a temporary folder until ``stack`` ends.
    """
    if not adapters and not is_checkpoint(path):
        return open_subject(path, REFERENCE)
    from edgekit.build import build
    from edgekit.project import BuildSpec

    if (path / MANIFEST).is_file():
        raise InputError("adapters go onto a checkpoint or a .gguf file", path=path, found="a bundle")
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="edgekit-")))
    spec = BuildSpec(base=path, out=folder, name="reference", adapters=tuple(adapters), quantizations=(kind,))
    return open_subject(build(spec, progress)[0].folder, REFERENCE)
