"""Builds that aren't repeated: bundles kept by the key of all that decides their bytes.

``DIR/bundles/KEY`` holds a bundle, its files linked with those that were published where one file system has both.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgekit import bundle
from edgekit.atomic import atomic_folder
from edgekit.build import Built, build
from edgekit.buildkey import beside, inputs, key
from edgekit.bundle import Bundle, Manifest
from edgekit.digests import Digests
from edgekit.errors import EdgekitError, InputError
from edgekit.files import share
from edgekit.importance import is_matrix
from edgekit.judging import failed_place
from edgekit.orders import alone, check, folder_of
from edgekit.progress import Progress
from edgekit.project import BuildSpec

How = Literal["built", "restored", "unchanged", "failed"]


@dataclass(frozen=True)
class Cached:
    """A bundle in its place, its key, and how it came there: ``built``, ``restored`` from the cache, or ``unchanged``.

    One that failed a gate is neither there nor kept: ``failed``.
    """

    built: Built
    key: str
    how: How


@dataclass(frozen=True)
class Part:
    """One bundle of a spec."""

    spec: BuildSpec
    folder: Path
    key: str


def parts(spec: BuildSpec, digests: Digests) -> list[Part]:
    """A spec's bundles with their keys. ``InputError`` for a spec whose bytes depend on more than can be hashed."""
    if spec.llama_cpp:
        raise InputError(
            "a build by llama.cpp's converter can't be cached",
            path=spec.llama_cpp,
            next_step="leave out --cache-dir",
        )
    check(spec)
    return [Part(one, folder_of(one), key(one, digests)) for one in alone(spec)]


def build_cached(spec: BuildSpec, folder: Path, progress: Progress | None = None) -> list[Cached]:
    """As ``build``, but only what isn't in its place, and isn't in the cache in ``folder``; in the spec's order."""
    progress = progress or Progress()
    cache = Cache(folder, progress)
    wanted = parts(spec, cache.digests)
    done = {part.folder: found for part in wanted if (found := cache.bring(part))}
    for place in done:
        failed_place(place).unlink(missing_ok=True)  # what is there now has passed
    missing = [part for part in wanted if part.folder not in done]
    if missing:
        names = tuple(name for part in missing for name in part.spec.quantizations)
        devices = tuple(device for part in missing for device in part.spec.devices)
        for built, part in zip(
            build(replace(spec, quantizations=names, devices=devices), progress), missing, strict=True
        ):
            if built.published:
                cache.keep(built, part)
            done[part.folder] = Cached(built, part.key, "built" if built.published else "failed")
    cache.digests.save()
    return [done[part.folder] for part in wanted]


class Cache:
    """Bundles by key in a folder, and the digests that were taken of files."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder, self.progress = folder, progress
        self.digests = Digests(folder)

    def bring(self, part: Part) -> Cached | None:
        """A part's bundle in its place, if it is there already or here; None if it has to be built."""
        kept = self._find(part.key)
        if kept is None:
            return None
        built = Built(part.folder, kept.manifest, None)
        if self._same(part.folder, kept.manifest):
            return Cached(built, part.key, "unchanged")
        with atomic_folder(part.folder, force=part.spec.force) as temporary:
            self._copy(kept, temporary)
        self._learn(part.folder, kept.manifest)
        return Cached(built, part.key, "restored")

    def keep(self, built: Built, part: Part) -> None:
        """Take a bundle in, unless its sources changed while it was built."""
        read = {file.sha256 for source in _sources(built.manifest, part.spec) for file in source.files}
        hashed = {self.digests.of(path) for path in _inputs(part.spec)}
        if read - hashed or key(part.spec, self.digests) != part.key:
            self.progress.note(f"{built.folder}: not cached, its sources changed meanwhile")
            return
        with atomic_folder(self._place(part.key), force=True) as temporary:
            self._copy(Bundle.open(built.folder), temporary)
        self._learn(built.folder, built.manifest)
        self._learn(self._place(part.key), built.manifest)

    def _place(self, key: str) -> Path:
        return self.folder / "bundles" / key

    def _find(self, key: str) -> Bundle | None:
        place = self._place(key)
        if not place.exists():
            return None
        try:
            found = Bundle.open(place)
            if self._intact(found):
                return found
            problem = "a file isn't what it was"
        except EdgekitError as error:
            problem = error.what
        self.progress.note(f"{place}: {problem}; built again")
        shutil.rmtree(place)
        return None

    def _same(self, folder: Path, manifest: Manifest) -> bool:
        """Whether a bundle is in its place, down to the bytes."""
        try:
            there = Bundle.open(folder)
        except EdgekitError:
            return False
        return there.manifest == manifest and self._intact(there)

    def _intact(self, found: Bundle) -> bool:
        return all(self.digests.of(found.path_of(file)) == file.sha256 for file in found.manifest.files)

    def _copy(self, source: Bundle, folder: Path) -> None:
        share(source.folder, [file.path for file in source.manifest.files], folder)
        bundle.write_json(folder / bundle.MANIFEST, source.manifest)

    def _learn(self, folder: Path, manifest: Manifest) -> None:
        for file in manifest.files:
            self.digests.learn(folder / file.path, file.sha256)


def _sources(manifest: Manifest, spec: BuildSpec) -> Sequence[bundle.Source]:
    """What a build hashed of ``_inputs``: not a matrix that it computed itself."""
    made = manifest.provenance
    read = made.calibration if spec.imatrix or (spec.calibration and is_matrix(spec.calibration)) else None
    return [made.base, *made.adapters, *([read] if read else [])]


def _inputs(spec: BuildSpec) -> list[Path]:
    places = [spec.base, *(folder for folder, _ in spec.adapters), *beside(spec)]
    return [file for place in places for file in inputs(place)]
