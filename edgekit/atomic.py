"""Folders that appear whole or not at all (POSIX: a rename is atomic, a lock dies with its process)."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import InputError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


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


def check_free(final: Path, *, force: bool = False) -> None:
    """``InputError`` for a folder that exists, unless ``force`` lets it be replaced."""
    if (final.exists() or final.is_symlink()) and not force:
        raise InputError(
            "exists already", path=final, expected="a new name", next_step="pass --force to replace it"
        )


@contextmanager
def atomic_folder(final: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary sibling to fill; on success it takes the name ``final``, on any failure it is removed.

    What ``final`` held stays until the new folder is complete and flushed. A sibling left by a killed run is
    recognised by its free lock and its dead process, and removed. Raises ``InputError`` if ``final`` exists and
    ``force`` is off, or if the disk refuses.
    """
    if not final.name:
        raise InputError("not a name for a folder", path=final)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.partial")
    with _disk_errors(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        _recover(final)
        check_free(final, force=force)
        temporary.mkdir()
        lock = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        with _disk_errors(final):
            for path in sorted(temporary.rglob("*")):
                sync_folder(path) if path.is_dir() else sync_file(path)
            sync_folder(temporary)
            _publish(temporary, final)
    finally:
        os.close(lock)
        _remove(temporary)


@contextmanager
def atomic_file(final: Path, *, force: bool = False) -> Iterator[Path]:
    """The same for one file: an empty temporary sibling to write, which takes the name ``final`` when it is flushed."""
    if not final.name:
        raise InputError("not a name for a file", path=final)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.partial")
    with _disk_errors(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        _recover(final)
        if final.is_dir() or ((final.exists() or final.is_symlink()) and not force):
            next_step = "choose another name" if final.is_dir() else "pass --force to replace it"
            raise InputError("exists already", path=final, expected="a new name", next_step=next_step)
        temporary.touch()
    try:
        yield temporary
        with _disk_errors(final):
            sync_file(temporary)
            temporary.replace(final)
            sync_folder(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            "can't write here", path=path, found=error.strerror, next_step="choose another folder with -o"
        ) from error


def _publish(temporary: Path, final: Path) -> None:
    """Give ``temporary`` the name ``final``; what had it is then under the temporary name, or gone."""
    if not (final.exists() or final.is_symlink()):
        temporary.rename(final)
    elif not _exchange(temporary, final):
        old = final.with_name(f".{final.name}.{os.getpid()}.old")
        final.rename(old)
        try:
            temporary.rename(final)
        except OSError:
            old.rename(final)
            raise
        _remove(old)
    sync_folder(final.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, so that a kill between can't leave neither; False where the system can't."""
    rename = (
        getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    )
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _recover(final: Path) -> None:
    """Clean up after runs that were killed: drop half-written folders, and put back an interrupted replace."""
    pattern = re.compile(rf"\.{re.escape(final.name)}\.(\d+)\.(partial|old)")
    for left in sorted(final.parent.iterdir()):
        match = pattern.fullmatch(left.name)
        if match is None or int(match[1]) == os.getpid() or _alive(int(match[1])) or _locked(left):
            continue
        if match[2] == "old" and not final.exists():
            left.rename(final)
        else:
            _remove(left)


def _locked(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
