"""Calibrate a bundle: run it over labelled records, fit its confidence, and put the map into it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgekit import calibration, card, room
from edgekit.atomic import atomic_folder
from edgekit.bundle import MANIFEST, SIGNATURE, Bundle, File, Manifest, write_json
from edgekit.calibration import FOLDS, Judged
from edgekit.card import CARD
from edgekit.confidence import Trace
from edgekit.confidence_map import CONFIDENCE, ConfidenceMap, fitted_for
from edgekit.errors import BundleError, InputError
from edgekit.files import real, sha256
from edgekit.labelled import Task, judge, read_task
from edgekit.progress import Progress
from edgekit.reliability import Reliability

Extract = Callable[[Sequence[str]], Iterator[tuple[str, Trace, Any]]]
"""Answers texts in their order: the text, the trace of its answer, and the data; None where there are none."""
Opener = Callable[[Bundle], AbstractContextManager[Extract]]
"""Loads a bundle for as long as it answers."""


@dataclass(frozen=True)
class Options:
    """How to calibrate; ``folds`` held out in turn give the published figures."""

    folds: int = FOLDS
    counter: int | None = None
    """A new release counter, above the present one; unset: the release stays what it is."""
    drop_signature: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.folds <= 20:
            raise InputError("folds is out of range", found=self.folds, expected="2 to 20")


def calibrate(
    folder: Path,
    task: Path,
    opener: Opener,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Fit the confidence of the bundle in ``folder`` on a labelled file, store it there, return the new manifest.

    Everything is checked before the model runs; on any error the bundle stays as it was. Raises ``InputError`` for
    the labels and ``BundleError`` for the bundle.
    """
    options, progress = options or Options(), progress or Progress()
    folder = real(folder)  # the bundle itself is replaced, not a link to it
    bundle = Bundle.open(folder)
    manifest = _checked(bundle, options)
    labelled = read_task(task, manifest.output_schema or {})
    if len(labelled.records) < calibration.LEAST_RECORDS:
        raise InputError(
            "too few labelled records to calibrate on",
            path=task,
            found=len(labelled.records),
            expected=f"{calibration.LEAST_RECORDS} or more",
        )
    with opener(bundle) as extract:
        judged, failed = _judged(labelled, extract, progress)
    target = fitted_for(manifest)
    held_out = calibration.cross_fit(judged, target, options.folds)
    figures = calibration.reliability(
        held_out, target, failed=failed, folds=options.folds, task=labelled.sha256
    )
    return _store(bundle, calibration.fit(judged, target), figures, options)


def _checked(bundle: Bundle, options: Options) -> Manifest:
    """The manifest of a bundle that may be calibrated: whole, unsigned, with a prompt and a schema."""
    manifest, path = bundle.manifest, bundle.folder
    for what, value in (("output schema", manifest.output_schema), ("prompt", manifest.prompt)):
        if value is None:
            raise BundleError(
                f"the bundle has no {what}, so there are no fields to be confident of",
                path=path,
                next_step="build it with [prompt] file and schema",
            )
    if (path / SIGNATURE).exists() and not options.drop_signature:
        raise BundleError(
            "the bundle is signed, and calibrating it would break the signature",
            path=path / SIGNATURE,
            next_step="pass --drop-signature, and sign it again afterwards",
        )
    if options.counter is not None and options.counter <= manifest.counter:
        raise InputError(
            "a release counter only goes up", found=options.counter, expected=f"above {manifest.counter}"
        )
    if problems := bundle.problems():
        raise BundleError("the bundle is not what was built", path=path, found="; ".join(problems[:5]))
    return manifest


def _judged(task: Task, extract: Extract, progress: Progress) -> tuple[list[Judged], int]:
    progress.stage(f"{len(task.records)} labelled records", len(task.records))
    judged, failed = [], 0
    answers = extract([record.text for record in task.records])
    for record, (text, trace, data) in zip(task.records, answers, strict=True):
        if text != record.text:
            raise RuntimeError(f"record {record.id} got the answer to another text")
        if data is None:
            failed += 1
        else:
            judged.append(judge(record, trace))
        progress.advance(record.id, 1)
    return judged, failed


def _store(bundle: Bundle, fitted: ConfidenceMap, figures: Reliability, options: Options) -> Manifest:
    """Swap in a folder with the map; the model's files are linked over, so gigabytes aren't copied."""
    changed = msgspec.structs.replace(
        bundle.manifest,
        confidence=figures,
        counter=bundle.manifest.counter if options.counter is None else options.counter,
    )
    with atomic_folder(bundle.folder, force=True) as folder:
        try:
            return _fill(folder, bundle, fitted, changed)
        except OSError as error:
            raise room.disk_error(error, bundle.folder) from error


def _fill(folder: Path, bundle: Bundle, fitted: ConfidenceMap, manifest: Manifest) -> Manifest:
    kept = [file for file in bundle.manifest.files if file.path != CONFIDENCE]
    for file in kept:
        if file.path == CARD:
            continue  # written anew: a link would change the old bundle's
        _carry(bundle.path_of(file), folder / file.path)
    place = folder / CONFIDENCE
    write_json(place, fitted)
    new = File(CONFIDENCE, place.stat().st_size, sha256(place))
    files = sorted([*kept, new], key=lambda file: file.path)
    manifest = msgspec.structs.replace(manifest, files=files)
    if any(file.path == CARD for file in kept):
        manifest = card.add(folder, manifest)  # it tells of the confidence, too
    write_json(folder / MANIFEST, manifest)
    return manifest


def _carry(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # not every file system links
        shutil.copyfile(source, target)
