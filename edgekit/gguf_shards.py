"""GGUF models in several files: llama.cpp opens the first and finds the others by name, so those are checked too."""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.errors import InputError
from edgekit.gguf_header import GgufHeader, read_header

SHARD_LIMIT = 1000
"""Files at most: each is held open while it is written."""

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def read_shards(path: Path) -> list[tuple[Path, GgufHeader]]:
    """The checked header of a GGUF file and, where it is the first of several, of all others in order.

    Raises ``InputError`` for a later part, for parts that are missing or of another model, and for unsound headers.
    """
    first = read_header(path)
    count = first.keys.get("split.count", 0)
    if count == 0 or (count == 1 and first.keys.get("split.no", 0) == 0):
        return [(path, first)]
    name = _NAME.fullmatch(path.name)
    if type(count) is not int or not 1 < count <= SHARD_LIMIT or not name or int(name["count"]) != count:
        raise _misnamed(path, count)
    if first.keys.get("split.no") != 0 or int(name["number"]) != 1:
        raise InputError(
            "a later part of a model in several files",
            path=path,
            expected=f"the first: {name['stem']}-00001-of-{count:05}.gguf",
        )
    found = [(path, first)]
    for i in range(1, count):
        part = path.with_name(f"{name['stem']}-{i + 1:05}-of-{count:05}.gguf")
        found.append((part, _part(part, i, count)))
    _check_tensors(path, found)
    return found


def parts_of(name: str) -> list[str]:
    """The names of all files of the model that a file belongs to, by the name of one."""
    if not (found := _NAME.fullmatch(name)):
        return [name]
    count = found["count"]
    return [f"{found['stem']}-{i + 1:05}-of-{count}.gguf" for i in range(int(count))]


def _part(path: Path, number: int, count: int) -> GgufHeader:
    header = read_header(path)
    if (header.keys.get("split.no"), header.keys.get("split.count")) != (number, count):
        raise InputError(
            "not the part of the model that its name says",
            path=path,
            found=f"split.no {header.keys.get('split.no')} of {header.keys.get('split.count')}",
            expected=f"{number} of {count}",
        )
    return header


def _check_tensors(path: Path, parts: list[tuple[Path, GgufHeader]]) -> None:
    names = [tensor.name for _, header in parts for tensor in header.tensors]
    expected = parts[0][1].keys.get("split.tensors.count")
    if len(set(names)) != len(names) or len(names) != expected:
        raise InputError(
            "the files of a model in several parts don't belong together",
            path=path,
            found=f"{len(names)} tensors, {len(set(names))} of them different",
            expected=f"{expected}",
        )


def _misnamed(path: Path, count: object) -> InputError:
    return InputError(
        "a model in several files whose name doesn't say which part it is",
        path=path,
        found=f"{path.name}, split.count {count}",
        expected="NAME-00001-of-00003.gguf for the first of three",
        next_step="give the files back the names that they were written under",
    )
