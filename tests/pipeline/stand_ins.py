"""What the pipeline's tests run with: a model whose answers betray a wrong resume, and disks that fail."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Unpack

from edgekit.answer import AnswerOptions, Extraction, Failure
from edgekit.pipeline import Interval, Job
from edgekit.pipeline.disk import Disk

FORMATS = ("jsonl", "csv", "sqlite", *(["parquet"] if find_spec("pyarrow") else []))
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}, "said": {"type": ["string", "null"]}},
    "required": ["sum", "said"],
    "additionalProperties": False,
}


class ChainModel:
    """Each answer depends on all texts of its epoch so far, so that one text too many or too few shows."""

    def __init__(self, epoch: int = 16, drift: int = 0) -> None:
        self.epoch, self._drift = epoch, drift
        self.batching = f"epochs of {epoch} records"
        self.asked: list[str] = []

    def extract_many(
        self,
        texts: Iterable[str],
        schema: Mapping[str, Any] | None = None,
        prompt: str | None = None,
        *,
        min_confidence: float | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Iterator[Extraction]:
        total = self._drift
        for n, text in enumerate(texts):
            self.asked.append(text)
            total = (0 if n % self.epoch == 0 else total) + len(text) + self._drift
            yield answer(text, total, min_confidence)


def answer(text: str, total: int, threshold: float | None) -> Extraction:
    """Texts that say so are cut off, or not sure; every third text holds a quote and a line end."""
    if "cut" in text or not text:
        failure = Failure("truncated", "cut off after 3 tokens")
        return Extraction(None, '{"su', True, 3, 0.0, needs_review=True, failure=failure)
    said = f'"{text}"\n,' if total % 3 == 0 else None
    confidence = {"sum": 0.31 if "unsure" in text else 0.97, "said": 0.99}
    doubtful = threshold is not None and confidence["sum"] < threshold
    return Extraction({"sum": total, "said": said}, "", False, 7, 0.1, confidence, 0.9, doubtful)


def given(model: ChainModel) -> Callable[[], AbstractContextManager[ChainModel]]:
    """A loader of this model."""
    return lambda: nullcontext(model)


def write_input(path: Path, count: int, start: int = 0) -> None:
    """Records of all fates: answered, unsure, cut off, empty, and one that is no UTF-8."""
    with path.open("ab" if start else "wb") as file:
        for n in range(start, start + count):
            if n % 37 == 5:
                file.write(b'{"id": "bad", "text": "\xff"}\n')
                continue
            words = {3: " unsure", 7: " cut"}.get(n % 11, "")
            text = "" if n % 23 == 9 else f"record {n}{words}" + "." * (n % 13)
            file.write(json.dumps({"id": f"r{n}", "text": text}).encode() + b"\n")


def bundle(folder: Path) -> Path:
    """A file that stands for a model; the tests' loaders never open it."""
    path = folder / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def job_in(folder: Path, out: str = "out.jsonl", **changes: Any) -> Job:
    """A job from in.jsonl to ``out`` with a review file, synced often."""
    options: dict[str, Any] = {
        "bundle": folder / "model.gguf",
        "inputs": (str(folder / "in.jsonl"),),
        "out": folder / out,
        "review": folder / "doubts" / "review.jsonl",
        "schema": SCHEMA,
        "prompt": "{text}",
        "min_confidence": 0.5,
        "sync": Interval(records=7),
    }
    return Job(**{**options, **changes})


class Crash(BaseException):
    """The power is gone: nothing after it happens."""


class PowerLoss(Disk):
    """Fails at the ``at``-th call, and loses what wasn't flushed: writes torn, renames and new names undone."""

    def __init__(self, at: int, seed: int) -> None:
        self.calls, self._at, self._random = 0, at, random.Random(seed)
        self._dead = False
        self._paths: dict[int, Path] = {}
        self._safe: dict[Path, int] = {}
        self._names: list[tuple[Path, bytes | None, Path | None]] = []
        """(name, what it held before, where the new file came from), until its folder is flushed."""

    def _call(self, torn: Callable[[], object] | None = None) -> None:
        if self._dead:
            raise Crash
        self.calls += 1
        if self.calls == self._at:
            self._dead = True
            if torn is not None and self._random.random() < 0.7:
                torn()
            self._lose()
            raise Crash

    def _lose(self) -> None:
        for path, safe in self._safe.items():
            if path.exists():
                data = path.read_bytes()
                kept = safe + self._random.randint(0, max(0, len(data) - safe))
                zeros = b"\0" * self._random.choice([0, 0, len(data[kept:])])
                path.write_bytes(data[:kept] + zeros)
        for path, before, came_from in reversed(self._names):
            if self._random.random() < 0.5:
                continue
            if came_from is not None and path.exists():
                came_from.write_bytes(path.read_bytes())
            path.unlink(missing_ok=True)
            if before is not None:
                path.write_bytes(before)

    def open(self, path: Path) -> int:
        self._call()
        if not path.exists():
            self._names.append((path, None, None))
        descriptor = super().open(path)
        self._paths[descriptor] = path
        self._safe.setdefault(path, path.stat().st_size)
        return descriptor

    def write(self, descriptor: int, data: bytes | bytearray) -> None:
        self._call(
            lambda: super(PowerLoss, self).write(descriptor, data[: self._random.randint(0, len(data))])
        )
        super().write(descriptor, data)

    def truncate(self, descriptor: int, length: int) -> None:
        self._call()
        super().truncate(descriptor, length)
        path = self._paths[descriptor]
        self._safe[path] = min(self._safe[path], length)

    def sync(self, descriptor: int) -> None:
        self._call()
        super().sync(descriptor)
        path = self._paths[descriptor]
        self._safe[path] = path.stat().st_size

    def replace(self, old: Path, new: Path) -> None:
        self._call()
        self._names.append((new, new.read_bytes() if new.exists() else None, old))
        super().replace(old, new)
        self._safe[new] = self._safe.pop(old)

    def remove(self, path: Path) -> None:
        self._call()
        if path.exists():
            self._names.append((path, path.read_bytes(), None))
        super().remove(path)

    def sync_folder(self, folder: Path) -> None:
        self._call()
        super().sync_folder(folder)
        self._names = [entry for entry in self._names if entry[0].parent != folder]


class FullDisk(Disk):
    """From the ``at``-th call that needs room on, there is none; a write gets part of its bytes in."""

    def __init__(self, at: int) -> None:
        self.calls, self._at = 0, at

    def _call(self) -> bool:
        self.calls += 1
        return self.calls >= self._at

    def open(self, path: Path) -> int:
        if not path.exists() and self._call():
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return super().open(path)

    def write(self, descriptor: int, data: bytes | bytearray) -> None:
        if self._call():
            super().write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        if self._call():
            raise OSError(errno.EIO, "Input/output error")
        super().sync(descriptor)
