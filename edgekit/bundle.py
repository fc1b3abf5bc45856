"""A bundle: one artifact with its manifest, digests and golden probes, in a folder that is whole or not there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from edgekit.allocation import Allocation
from edgekit.errors import BundleError, InputError
from edgekit.files import MALFORMED, inside, read_bounded, sha256
from edgekit.forms import ENDINGS, FOLDERS
from edgekit.gguf_shards import parts_of
from edgekit.intended import Intended
from edgekit.onnx_header import places, read_tensors
from edgekit.packed_folder import weight_files
from edgekit.reliability import Reliability

SCHEMA_VERSION = 1
MANIFEST, GOLDEN, SIGNATURE = "manifest.json", "golden.json", "signature.json"


class File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file by its name in the bundle (or checkpoint), its bytes and its SHA-256."""

    path: str
    size: int
    sha256: str


class Source(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A checkpoint or adapter that went in."""

    name: str
    files: list[File]
    weight: float | None = None


class Calibration(Source, forbid_unknown_fields=True, frozen=True):
    """An importance matrix that went in; the count and SHA-256 of its tokens where edgekit computed it."""

    tokens: int | None = None
    tokens_sha256: str | None = None


class Provenance(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What the artifact was made from, and with what."""

    base: Source
    adapters: list[Source] = []
    calibration: Calibration | None = None
    tools: dict[str, str] = {}
    licence: str | None = None


class Requirements(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What running it takes: bytes of memory by context length, CPU instructions, and the runtime."""

    memory: dict[str, int]
    runtime: str
    instruction_sets: list[str] = []


class Manifest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """manifest.json: what the bundle is, holds, came from and needs."""

    schema_version: int
    name: str
    version: str
    counter: int
    format: str
    quantization: str
    files: list[File]
    provenance: Provenance
    requirements: Requirements
    target: Intended | None = None
    prompt: str | None = None
    system: str | None = None
    output_schema: dict[str, Any] | None = None
    quality: dict[str, Any] | None = None
    speed: dict[str, Any] | None = None
    confidence: Reliability | None = None
    allocation: Allocation | None = None
    settings: dict[str, Any] | None = None
    """What another's converter was asked for, of a format that edgekit doesn't write itself."""
    intended_use: str | None = None
    """What it is meant for, in the words of who built it."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest was read, and every file it lists is there in its size."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path | str) -> Bundle:
        """Read the manifest and check names and sizes; ``BundleError`` for anything amiss."""
        folder = Path(folder)
        if not folder.is_dir() or not (folder / MANIFEST).is_file():
            raise BundleError(
                "not a bundle",
                path=folder,
                found="nothing"
                if not folder.exists()
                else "a file"
                if folder.is_file()
                else f"no {MANIFEST}",
                expected=f"a folder with {MANIFEST}, as edgekit build makes it",
            )
        bundle = cls(folder, read_manifest(folder))
        for file in bundle.manifest.files:
            path = bundle.path_of(file)
            if not path.is_file():
                raise BundleError("a file is missing", path=path, next_step="copy the bundle again")
            if path.stat().st_size != file.size:
                raise BundleError(
                    "a file has the wrong size",
                    path=path,
                    found=f"{path.stat().st_size:,} bytes",
                    expected=f"{file.size:,}",
                    next_step="copy the bundle again",
                )
        listed = {file.path for file in bundle.manifest.files}
        # A runtime would load parts that nothing here has looked at.
        wanted = {part for name in listed for part in parts_of(name)} | bundle._weights()
        if strangers := sorted(wanted - listed):
            raise BundleError(
                "a part of the model isn't in the manifest", path=folder / MANIFEST, expected=strangers[0]
            )
        return bundle

    @property
    def artifact(self) -> Path:
        """The model file: the first of several that llama.cpp finds by name, or the graph beside its weights."""
        ending = ENDINGS.get(self.manifest.format)
        name = next(
            (file for file in model_files(self.manifest) if ending and file.path.endswith(ending)), None
        )
        if name is None:
            raise BundleError(
                "no artifact that this version runs", path=self.folder, found=self.manifest.format
            )
        return self.path_of(name)

    def _weights(self) -> set[str]:
        """Files that the artifact of a folder format takes its weights from, as the manifest would list them."""
        if self.manifest.format not in FOLDERS:
            return set()
        first = self.artifact
        if self.manifest.format == "onnx":
            found = [first.parent / name for name in places(read_tensors(first))]
        else:
            found = list(weight_files(first.parent))
        return {path.relative_to(self.folder).as_posix() for path in found}

    @contextmanager
    def verified(self) -> Iterator[Path]:
        """The artifact, the digests of its files checked, under a path that leads to the very files that were read.

        ``BundleError`` if a digest differs. Where the system has no /dev/fd the plain path is given.
        """
        first = self.artifact
        with ExitStack() as stack:
            opened = {}
            for entry in model_files(self.manifest):
                file = stack.enter_context(self.path_of(entry).open("rb"))
                _check_digest(file, entry, self.path_of(entry))
                opened[self.path_of(entry).name] = Path(f"/dev/fd/{file.fileno()}")
            if not all(place.exists() for place in opened.values()):
                yield first
            elif len(opened) == 1:
                yield opened[first.name]
            else:  # the others are found by their names beside the first
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="edgekit-")))
                for name, place in opened.items():
                    (folder / name).symlink_to(place)
                yield folder / first.name

    def path_of(self, file: File) -> Path:
        """A listed file's place, refused if it leaves the folder."""
        try:
            return inside(self.folder, file.path)
        except InputError as error:
            raise BundleError(
                error.what, path=error.path, found=error.found, expected=error.expected
            ) from error

    def problems(self) -> list[str]:
        """What ``edgekit verify`` finds: digests that differ, and files that the manifest doesn't list."""
        found = []
        for file in self.manifest.files:
            digest = sha256(self.path_of(file))
            if digest != file.sha256:
                found.append(
                    f"{file.path}: its SHA-256 is {digest[:16]}…, the manifest says {file.sha256[:16]}…"
                )
        listed = {MANIFEST, SIGNATURE, *(file.path for file in self.manifest.files)}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_symlink() or (not path.is_dir() and name not in listed):
                found.append(
                    f"{name}: {'a link' if path.is_symlink() else 'a stranger'}, not in the manifest"
                )
        return found


def model_files(manifest: Manifest) -> list[File]:
    """What a runtime reads to run the model: .gguf files, or all of the folder that a model of another format is."""
    if manifest.format in FOLDERS:
        return [file for file in manifest.files if file.path.startswith(f"{manifest.format}/")]
    return [file for file in manifest.files if file.path.endswith(".gguf")]


def _check_digest(file: BufferedReader, listed: File, path: Path) -> None:
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != listed.sha256:
        raise BundleError(
            "the artifact is not what was built",
            path=path,
            found=f"SHA-256 {found[:16]}…",
            expected=f"{listed.sha256[:16]}…",
            next_step="copy the bundle again",
        )


def read_manifest(folder: Path) -> Manifest:
    """Decode manifest.json strictly; ``BundleError`` names the key that is wrong."""
    path = folder / MANIFEST
    try:
        data = read_bounded(inside(folder, MANIFEST), limit=16 << 20)
        version = msgspec.json.decode(data, type=_Versioned).schema_version
        if version != SCHEMA_VERSION:
            raise BundleError(
                "made for another version of edgekit",
                path=path,
                found=f"schema_version {version}",
                expected=str(SCHEMA_VERSION),
                next_step="pip install --upgrade edgekit"
                if version > SCHEMA_VERSION
                else "build the bundle again",
            )
        return msgspec.json.decode(data, type=Manifest)
    except MALFORMED as error:
        raise BundleError("the manifest is unsound", path=path, found=str(error)) from error
    except InputError as error:
        raise BundleError(error.what, path=path, found=error.found, expected=error.expected) from error


class _Versioned(msgspec.Struct):
    schema_version: int


def list_files(folder: Path, digests: dict[str, str] | None = None) -> list[File]:
    """Every file in a folder but hidden ones and the manifest, sorted; digests that are known aren't redone."""
    known = digests or {}
    files = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.name.startswith(".") and name != MANIFEST:
            files.append(File(path=name, size=path.stat().st_size, sha256=known.get(name) or sha256(path)))
    return files


def write_json(path: Path, value: Any) -> None:
    """Write a struct or plain values as JSON that a person can read; the same bytes for the same value."""
    data = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
