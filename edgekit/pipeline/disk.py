"""Writing that survives: what goes to the disk, in which order. One place, so that tests can make it fail."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgekit.errors import InputError

TAIL: Final = 4096
"""Bytes before the durable end that are remembered by their digest, to know a file again."""
_BUFFER: Final = 1 << 20


class Disk:
    """The system's calls that change files; nothing else in the pipeline changes any."""

    def open(self, path: Path) -> int:
        """A descriptor to read and write, of a new file where there is none."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def write(self, descriptor: int, data: bytes | bytearray) -> None:
        """All of ``data`` at the descriptor's position."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut the file and stand at its end."""
        os.ftruncate(descriptor, length)
        os.lseek(descriptor, length, os.SEEK_SET)

    def sync(self, descriptor: int) -> None:
        """Until this returns, nothing written is safe."""
        os.fsync(descriptor)

    def replace(self, old: Path, new: Path) -> None:
        """Give ``old`` the name ``new``, in one step."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Flush the names in a folder."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def publish(self, temporary: Path, final: Path) -> None:
        """A finished file takes its name: flushed before, its folder after."""
        descriptor = self.open(temporary)
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)
        self.replace(temporary, final)
        self.sync_folder(final.parent)

    def write_whole(self, final: Path, data: bytes) -> None:
        """``final`` holds ``data`` or what it held before, whatever happens."""
        temporary = final.with_name(final.name + ".new")
        descriptor = self.open(temporary)
        try:
            self.truncate(descriptor, 0)
            self.write(descriptor, data)
            self.sync(descriptor)
        finally:
            os.close(descriptor)
        self.replace(temporary, final)
        self.sync_folder(final.parent)


class AppendFile:
    """A file that grows by whole records; ``size`` counts those that still wait to be written, too."""

    def __init__(self, disk: Disk, path: Path, length: int) -> None:
        """Opened, and cut to the ``length`` that is known to be whole."""
        self._disk, self._path = disk, path
        self._buffer = bytearray()
        self._descriptor = disk.open(path)
        self.size = length
        disk.truncate(self._descriptor, length)

    def append(self, data: bytes) -> None:
        """Add bytes; they are durable after ``sync``."""
        self._buffer += data
        self.size += len(data)
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        self._disk.write(self._descriptor, self._buffer)
        self._buffer.clear()

    def sync(self) -> str:
        """Make all of it durable; the digest of its last bytes."""
        if self._buffer:
            self._flush()
        self._disk.sync(self._descriptor)
        return tail_digest(self._descriptor, self.size)

    def read(self, start: int, end: int) -> bytes:
        """Bytes that were written before."""
        return os.pread(self._descriptor, end - start, start)

    def close(self) -> None:
        """Without writing what waits: who wants that calls ``sync``."""
        os.close(self._descriptor)


def tail_digest(descriptor: int, end: int) -> str:
    """SHA-256 of the last bytes before ``end``."""
    start = max(0, end - TAIL)
    return hashlib.sha256(os.pread(descriptor, end - start, start)).hexdigest()


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """One run at a time writes ``out``; the lock ends with the process. ``InputError`` where another holds it."""
    path = out.with_name(f".{out.name}.edgekit-lock")
    while True:
        with disk_errors(out):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InputError(
                "another run is writing this file",
                path=out,
                next_step="wait for it or stop it; then run the same command to go on",
            ) from error
        if _is(descriptor, path):
            break
        os.close(descriptor)  # removed by the run that held it, between our two calls
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """A disk that refuses, as an error that says how to go on."""
    try:
        yield
    except OSError as error:
        raise refused(path, error) from error


def refused(path: Path, error: OSError) -> InputError:
    """What the disk said, and how to go on."""
    return InputError(
        "can't be written",
        path=path,
        found=error.strerror or str(error),
        next_step="make room or mend the disk, and run the same command again: it goes on where it stopped",
    )
