"""What is evaluated: bundles and GGUF files, looked at before any work; and the reference that they are held against."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from edgekit.bundle import MANIFEST, Bundle
from edgekit.choosing import artifact_of
from edgekit.errors import BundleError, InputError
from edgekit.files import real, sha256
from edgekit.forms import files_of
from edgekit.progress import Progress

if TYPE_CHECKING:
    from edgekit.project import BuildSpec

REFERENCE: Final = "reference"
LLAMA_CPP: Final = "llama.cpp"
TRANSFORMERS: Final = "transformers"
RUNTIMES: Final = (LLAMA_CPP, TRANSFORMERS)
"""What a reference may run in."""
UNQUANTIZED: Final = ("F16", "F32", "BF16")


@dataclass(frozen=True)
class Subject:
    """One model file, with what its bundle asks it where it comes in one."""

    label: str
    path: Path
    """As it was named."""
    files: tuple[tuple[Path, str | None], ...]
    """The model's files, with the SHA-256 that the bundle's manifest says."""
    quantization: str
    size: int
    """Bytes of all the files."""
    trained: int
    """Tokens of context that it was trained with."""
    prompt: str | None = None
    system: str | None = None
    schema: Mapping[str, Any] | None = None
    sha256: str = ""
    """Of the file; of the digests of all files where there are several. Known once it is ``digested``."""
    source: BuildSpec | None = None
    """What transformers reads instead of ``files``: a checkpoint and the adapters that are merged into it."""

    @property
    def artifact(self) -> Path:
        """The file to open."""
        return self.files[0][0]


def open_subjects(paths: Sequence[Path], labels: Sequence[str] = ()) -> list[Subject]:
    """Look at bundles' folders and .gguf files; ``InputError`` or ``BundleError`` for anything amiss in their headers."""
    if labels:
        return [open_subject(path, label) for path, label in zip(paths, labels, strict=True)]
    places = [real(path) for path in paths]
    if len(set(places)) < len(paths):
        raise InputError("a bundle is named twice", found=", ".join(map(str, paths)))
    choices = ([place.name for place in places], ["/".join(place.parts[-2:]) for place in places])
    unlike = (names for names in choices if len({REFERENCE, *names}) > len(names))
    found = next(unlike, list(map(str, places)))
    return [open_subject(path, label) for path, label in zip(paths, found, strict=True)]


def open_subject(path: Path, label: str) -> Subject:
    """A bundle's folder, or a .gguf file."""
    bundle = Bundle.open(path) if path.is_dir() else None
    place = bundle.artifact if bundle else path
    artifact = artifact_of(place)
    files = files_of(place)
    about = bundle.manifest if bundle else None
    listed = {bundle.path_of(one): one.sha256 for one in about.files} if bundle and about else {}
    return Subject(
        label=label,
        path=path,
        files=tuple((part, listed.get(part)) for part in files),
        quantization=about.quantization if about else artifact.quantization,
        size=sum(part.stat().st_size for part in files),
        trained=artifact.shape.trained,
        prompt=about.prompt if about else None,
        system=about.system if about else None,
        schema=about.output_schema if about else None,
    )


def digested(subject: Subject) -> Subject:
    """The same with its digest; ``BundleError`` for a file that isn't what the manifest says."""
    digests = []
    for path, listed in subject.files:
        digests.append(sha256(path))
        if listed is not None and digests[-1] != listed:
            raise BundleError(
                "the artifact is not what was built",
                path=path,
                found=f"SHA-256 {digests[-1][:16]}…",
                expected=f"{listed[:16]}…",
                next_step="copy the bundle again",
            )
    if subject.source is not None:
        digests.append(repr((TRANSFORMERS, [weight for _, weight in subject.source.adapters])))
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return replace(subject, sha256=whole)


def is_checkpoint(path: Path) -> bool:
    """Whether a reference has to be built first: it is a checkpoint's folder."""
    return path.is_dir() and not (path / MANIFEST).is_file()


def foresee(spec: BuildSpec, place: Path) -> Subject:
    """What a spec makes, before any weight is read: a file at ``place`` with all keys, the vocabulary, and no weights."""
    from edgekit.opening import opened

    with opened(spec, Progress()) as inputs:
        start = inputs.plans[0].write_header(place)
        os.truncate(place, start + inputs.plans[0].data_bytes)  # a hole, which takes no room on the disk
    return open_subject(place, REFERENCE)


class Reference:
    """What the others are held against: a bundle or a .gguf file as it is; a checkpoint, or adapters on anything, built.

    What is built lives in a temporary folder until ``stack`` ends.
    """

    def __init__(
        self,
        path: Path,
        adapters: Sequence[tuple[Path, float]],
        kind: str,
        stack: ExitStack,
        progress: Progress,
        runtime: str = LLAMA_CPP,
    ) -> None:
        self._runtime = runtime
        self.path, self._kind, self._adapters, self._progress = path, kind, tuple(adapters), progress
        self._folder: Path | None = None
        if not adapters and not is_checkpoint(path):
            return
        if (path / MANIFEST).is_file():
            raise InputError("adapters go onto a checkpoint or a .gguf file", path=path, found="a bundle")
        self._folder = Path(stack.enter_context(TemporaryDirectory(prefix="edgekit-")))

    def foreseen(self) -> Subject:
        """The reference before any weight is read: its keys and vocabulary are there, its weights need not be."""
        if self._folder is None:
            return open_subject(self.path, REFERENCE)
        return foresee(self._spec(self._folder), self._folder / "foreseen.gguf")

    def made(self) -> Subject:
        """The reference, ready to run."""
        if self._folder is None:
            return open_subject(self.path, REFERENCE)
        if self._runtime == TRANSFORMERS:
            return self._unbuilt(self._folder)
        from edgekit.build import build

        built = build(self._spec(self._folder), self._progress)[0]
        return replace(open_subject(built.folder, REFERENCE), path=self.path)

    def _unbuilt(self, folder: Path) -> Subject:
        """The checkpoint as transformers will read it, in float32."""
        from edgekit.opening import opened
        from edgekit.plan import artifact

        spec = self._spec(folder)
        with opened(spec, Progress()) as inputs:
            files = [file.path for file in inputs.base.files]
            files += [one.file.path for one, _ in inputs.adapters]
            size, shape = 4 * inputs.layout.parameters, artifact(inputs.plans[0]).shape
        listed = tuple((path, None) for path in files)
        return Subject(REFERENCE, self.path, listed, "F32", size, shape.trained, source=spec)

    def _spec(self, folder: Path) -> BuildSpec:
        from edgekit.project import BuildSpec

        return BuildSpec(self.path, folder, REFERENCE, self._adapters, (self._kind,))
