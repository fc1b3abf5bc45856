"""SHA-256 of files, taken again only where a file was touched since."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from edgekit.files import MALFORMED, read_bounded, sha256

FILE: Final = "digests.json"
LIMIT: Final = 10_000
"""Files that are remembered; the oldest go first."""
SETTLED: Final = 0.1
"""Seconds after its last change from which a file's times tell every later one: file systems count in milliseconds."""

Known = dict[str, tuple[int, int, int, str]]
"""Size, times of change of contents and of inode in nanoseconds, and SHA-256, by device and inode."""


class Digests:
    """Digests that were taken, kept in a folder. What that lost, or can't be read, is taken again."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._changed = False
        self._known: Known = {}
        if self._file.is_file():
            try:
                self._known = msgspec.json.decode(read_bounded(self._file, limit=16 << 20), type=Known)
            except MALFORMED:
                self._changed = True

    def of(self, path: Path) -> str:
        """A file's SHA-256."""
        about = path.stat()
        known = self._known.get(_identity(about))
        if known and known[:3] == _times(about):
            return known[3]
        digest = sha256(path)
        after = path.stat()
        settled = time.time() - max(after.st_mtime, after.st_ctime) > SETTLED
        if settled and _times(after) == _times(about):
            self.learn(path, digest)
        return digest

    def learn(self, path: Path, digest: str) -> None:
        """What a file that was just written holds."""
        about = path.stat()
        self._known.pop(_identity(about), None)
        self._known[_identity(about)] = (*_times(about), digest)
        self._changed = True

    def save(self) -> None:
        """Keep what was found out; a folder that can't be written costs time the next time, and nothing else."""
        if not self._changed:
            return
        part = self._file.with_name(f".{FILE}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(msgspec.json.encode(dict(list(self._known.items())[-LIMIT:])))
            part.replace(self._file)
        except OSError:
            with suppress(OSError):
                part.unlink()
        self._changed = False


def _identity(about: os.stat_result) -> str:
    return f"{about.st_dev}:{about.st_ino}"


def _times(about: os.stat_result) -> tuple[int, int, int]:
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns
