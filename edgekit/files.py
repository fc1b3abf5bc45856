"""Files that come from elsewhere, read with bounds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import InputError

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what they should be."""

JSON_LIMIT = 64 << 20
"""Bytes of JSON read at most: a 256k-token tokenizer.json takes about 35 MB."""


def real(path: Path) -> Path:
    """The path without links, however far it goes; links in a circle are left for whoever opens it."""
    return Path(os.path.realpath(path))


def inside(folder: Path, name: str) -> Path:
    """The path of ``name`` in ``folder``, or ``InputError`` if it leaves the folder by name or by link.

    A Hugging Face cache is let through: there, ``snapshots/REV/file`` links into ``blobs`` beside it.
    """
    path = folder / name
    if not name or "\0" in name or os.path.isabs(name) or ".." in Path(name).parts:
        raise InputError(
            "a path leaves its folder", path=folder, found=repr(name), expected="a name inside it"
        )
    target, root = real(path), real(folder)
    allowed = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    if not any(target.is_relative_to(place) for place in allowed):
        raise InputError(
            "a link leaves its folder",
            path=path,
            found=str(target),
            expected=f"a file inside {folder}",
            next_step="copy the file itself into the folder",
        )
    return path


def require_file(path: Path, what: str) -> Path:
    """``path`` if it is a regular file, else ``InputError``."""
    if path.is_dir():
        raise InputError(f"{what} is a folder", path=path, expected="a file")
    if not path.is_file():
        raise InputError(f"{what} is missing", path=path, expected="a file")
    return path


def require_folder(path: Path, what: str) -> Path:
    """``path`` if it is a folder, else ``InputError``."""
    if path.is_file():
        raise InputError(f"{what} is a file", path=path, expected="a folder")
    if not path.is_dir():
        raise InputError(f"{what} is missing", path=path, expected="a folder")
    return path


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} appears twice")
    return out


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """One JSON object without duplicate keys, or ``InputError`` naming ``path``."""
    try:
        value = json.loads(data, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise InputError(
            "not readable as JSON", path=path, found=str(error), expected="one JSON object"
        ) from error
    if b"\\ud" in data.lower() and not _encodes(value):
        raise InputError(
            "holds half of a surrogate pair", path=path, expected="text that can be written as UTF-8"
        )
    if not isinstance(value, dict):
        raise InputError("not a JSON object", path=path, found=type(value).__name__, expected="an object")
    return value


def _encodes(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_bounded(path: Path, limit: int = JSON_LIMIT) -> bytes:
    """The file's bytes, refused above ``limit``."""
    require_file(path, "the file")
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError("can't be read", path=path, found=error.strerror) from error
    if len(data) > limit:
        raise InputError("too large", path=path, found=f"over {limit:,} bytes", expected=f"at most {limit:,}")
    return data


def read_json(path: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """A bounded JSON object from a file."""
    return parse_json(read_bounded(path, limit), path)


def read_text(path: Path, limit: int = 1 << 20) -> str:
    """A bounded UTF-8 file."""
    try:
        return read_bounded(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", path=path, found=str(error)) from error


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Hex digest of a file, in bounded memory."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            if progress:
                progress(count)
    return digest.hexdigest()


def share(source: Path, names: Iterable[str], folder: Path) -> None:
    """Put finished files of a folder into another too, under their names: as hard links, or as copies where there are none."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, folder / name)
        except OSError:
            shutil.copyfile(source / name, folder / name)
