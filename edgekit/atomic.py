"""Folders that appear whole or not at all (POSIX: a rename is atomic, a lock dies with its process)."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import InputError


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush a file to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def atomic_folder(final: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary sibling to fill; on success it takes the name ``final``, on any failure it is removed.

    What ``final`` held stays until the new folder is complete and flushed. A sibling left by a killed run is
    recognised by its free lock and removed. Raises ``InputError`` if ``final`` exists and ``force`` is off.
    """
    if not final.name:
        raise InputError("not a name for a folder", path=final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _recover(final)
    except OSError as error:
        raise InputError("can't write here", path=final.parent, found=error.strerror) from error
    if (final.exists() or final.is_symlink()) and not force:
        raise InputError(
            "exists already", path=final, expected="a new name", next_step="pass --force to replace it"
        )
    try:
        temporary = final.with_name(f".{final.name}.{os.getpid()}.partial")
        temporary.mkdir()
    except OSError as error:
        raise InputError("can't write here", path=final.parent, found=error.strerror) from error
    lock = os.open(temporary / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        (temporary / ".lock").unlink()
        for path in sorted(temporary.rglob("*")):
            sync_folder(path) if path.is_dir() else sync_file(path)
        sync_folder(temporary)
        _replace(temporary, final)
    finally:
        os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, final: Path) -> None:
    """Move ``temporary`` to ``final``; an older ``final`` is kept aside until the move is done."""
    old = final.with_name(f".{final.name}.{os.getpid()}.old")
    replaced = final.exists() or final.is_symlink()
    if replaced:
        final.rename(old)
    try:
        temporary.rename(final)
    except OSError:
        if replaced:
            old.rename(final)
        raise
    sync_folder(final.parent)
    if replaced:
        old.unlink() if old.is_symlink() or old.is_file() else shutil.rmtree(old)


def _recover(final: Path) -> None:
    """Clean up after runs that were killed: drop half-written folders, and put back an interrupted replace."""
    for left in final.parent.glob(f".{final.name}.*.partial"):
        if not _locked(left / ".lock"):
            shutil.rmtree(left, ignore_errors=True)
    for old in final.parent.glob(f".{final.name}.*.old"):
        if not final.exists():
            old.rename(final)
        elif not _alive(old):
            shutil.rmtree(old, ignore_errors=True)


def _locked(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _alive(left: Path) -> bool:
    """Whether the process whose number the name carries still runs."""
    number = left.name.rsplit(".", 2)[1]
    try:
        os.kill(int(number), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
