"""The inputs of a run, one after the other, as one stream of records."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from edgekit.errors import InputError
from edgekit.pipeline.lines import BOM, Lines
from edgekit.pipeline.readers import Fields, Origin, read_csv, read_jsonl, read_lines
from edgekit.pipeline.record import LIMIT, Fault, Record, bad_utf8, record_of

STDIN: Final = "-"
KINDS: Final = ("jsonl", "csv", "tsv", "lines", "parquet")
_SUFFIXES: Final = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".txt": "lines", ".log": "lines", "": "lines", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip


class Reader(Protocol):
    """Records of one input; ``fraction`` says how far it is, None where that can't be known."""

    def __iter__(self) -> Iterator[Record]: ...

    @property
    def fraction(self) -> float | None: ...


class Inputs:
    """Opens each input when its turn comes. Iterating gives the records of all, in order."""

    def __init__(
        self, names: Sequence[str], fields: Fields, kind: str | None = None, stdin: BinaryIO | None = None
    ) -> None:
        """``kind`` is for every input; without it the suffix decides, and standard input holds lines."""
        if names.count(STDIN) > 1:
            raise InputError("standard input can be read once only", found="- twice among the inputs")
        self.names = tuple(names)
        self._fields, self._stdin = fields, stdin
        self._kinds = [_kind_of(name, kind) for name in names]
        self._sizes = [_size_of(name) for name in names]
        self._origins = [Origin(name, number) for number, name in enumerate(_short_names(names))]
        self._reader: Reader | None = None
        self._at = 0

    def __iter__(self) -> Iterator[Record]:
        for origin, name, kind in zip(self._origins, self.names, self._kinds, strict=True):
            with _opened(name, kind, origin, self._fields, self._stdin) as reader:
                self._at, self._reader = origin.number, reader
                yield from reader

    @property
    def share(self) -> float | None:
        """Of all bytes, how many were given; None while that can't be known, as with standard input."""
        if None in self._sizes:
            return None
        sizes = [size or 0 for size in self._sizes]
        now = 0.0 if self._reader is None else self._reader.fraction or 0.0
        return (sum(sizes[: self._at]) + now * sizes[self._at]) / max(1, sum(sizes))


def _short_names(names: Sequence[str]) -> list[str]:
    """The last part of each path where that tells them apart, else the path as it was given."""
    short = ["stdin" if name == STDIN else Path(name).name or name for name in names]
    counts = Counter(short)
    return [own if counts[own] == 1 else name for own, name in zip(short, names, strict=True)]


def _kind_of(name: str, kind: str | None) -> str:
    path = Path(name)
    if name == STDIN:
        if kind == "parquet":
            raise InputError("Parquet can't be read from standard input", next_step="save it to a file first")
        return kind or "lines"
    if path.is_dir():
        return "folder"
    if not path.exists():
        raise InputError("the input is missing", path=name, expected="a file or a folder of .txt files")
    if not path.is_file():
        raise InputError(
            "the input is no regular file",
            path=name,
            next_step=f"pipe it in: cat {name} | edgekit extract … -",
        )
    kind = kind or _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            "what this file holds can't be told from its name",
            path=name,
            found=path.suffix,
            expected=", ".join(suffix for suffix in _SUFFIXES if suffix),
            next_step=f"say it with --input-format {'|'.join(KINDS)}",
        )
    return kind


def _size_of(name: str) -> int | None:
    if name == STDIN:
        return None
    path = Path(name)
    return sum(file.stat().st_size for file in _texts(path)) if path.is_dir() else path.stat().st_size


def _texts(folder: Path) -> list[Path]:
    """The .txt files of a folder and its folders, by name, without hidden ones and links out of it."""
    found = [path for path in folder.rglob("*.txt") if path.is_file()]
    kept = [
        path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return sorted(kept, key=lambda path: path.relative_to(folder).as_posix())


class _opened:
    """The reader of one input, its file closed at the end."""

    def __init__(self, name: str, kind: str, origin: Origin, fields: Fields, stdin: BinaryIO | None) -> None:
        self._name, self._kind, self._origin, self._fields, self._stdin = name, kind, origin, fields, stdin
        self._file: BinaryIO | None = None

    def __enter__(self) -> Reader:
        if self._kind == "folder":
            return _Folder(Path(self._name), self._origin)
        if self._kind == "parquet":
            from edgekit.pipeline.parquet import ParquetReader

            return ParquetReader(Path(self._name), self._origin, self._fields)
        if self._name == STDIN:
            if self._stdin is None:
                raise InputError("there is no standard input here", expected="files or folders")
            # A pipe gives what there is, without waiting for a whole chunk.
            read: Callable[[int], bytes] = getattr(self._stdin, "read1", self._stdin.read)
            return _ByLine(Lines(read, "standard input"), None, self._kind, self._origin, self._fields)
        path = Path(self._name)
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise InputError("can't be read", path=path, found=error.strerror) from error
        size = os.fstat(self._file.fileno()).st_size
        return _ByLine(Lines(self._file.read, self._name), size, self._kind, self._origin, self._fields)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


class _ByLine:
    def __init__(self, lines: Lines, size: int | None, kind: str, origin: Origin, fields: Fields) -> None:
        self._lines, self._size, self._kind, self._origin, self._fields = lines, size, kind, origin, fields

    @property
    def fraction(self) -> float | None:
        return None if self._size is None else min(1.0, self._lines.position / max(1, self._size))

    def __iter__(self) -> Iterator[Record]:
        if self._kind == "jsonl":
            return read_jsonl(self._lines, self._origin, self._fields)
        if self._kind == "lines":
            return read_lines(self._lines, self._origin)
        return read_csv(self._lines, self._origin, self._fields, tabs=self._kind == "tsv")


class _Folder:
    """A record per .txt file, named by its path in the folder."""

    def __init__(self, folder: Path, origin: Origin) -> None:
        self._folder, self._source = folder, origin
        self._files = _texts(folder)
        self._done = 0
        if not self._files:
            raise InputError("the folder holds no .txt file", path=folder, expected="a record per .txt file")

    @property
    def fraction(self) -> float:
        return self._done / len(self._files)

    def __iter__(self) -> Iterator[Record]:
        for path in self._files:
            self._done += 1
            yield self._record(path)

    def _record(self, path: Path) -> Record:
        place = f"{self._source.name}/{path.relative_to(self._folder).as_posix()}"
        place = place.encode("utf-8", "replace").decode()
        try:
            with path.open("rb") as file:
                data = file.read(LIMIT + 1)
        except OSError as error:
            raise InputError("can't be read", path=path, found=error.strerror) from error
        if len(data) > LIMIT:
            return Record(
                place, "", self._source.number, Fault("too_long", f"the file is longer than {LIMIT:,} bytes")
            )
        try:
            # The line end that an editor puts last is none of the text's.
            text = data.removeprefix(BOM).decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            return Record(place, "", self._source.number, bad_utf8(error))
        return record_of(place, None, text, self._source.number)


class SeenIds:
    """Counts ids that came before, by their hashes in a table of 16 MiB; when that is ``full`` it stops looking."""

    SLOTS: Final = 1 << 21
    MOST: Final = SLOTS * 2 // 3

    def __init__(self) -> None:
        self._slots = memoryview(bytearray(8 * self.SLOTS)).cast("Q")
        self._count = 0
        self.twice = 0
        self.first: str | None = None
        """The first id that came again."""

    @property
    def full(self) -> bool:
        """Whether later ids were not looked at."""
        return self._count >= self.MOST

    def add(self, name: str) -> None:
        """Count ``name`` if it was there before."""
        if self._count >= self.MOST:
            return
        mark = hash(name) & 0xFFFF_FFFF_FFFF_FFFF or 1
        slots, last = self._slots, self.SLOTS - 1
        at = mark & last
        while slots[at]:
            if slots[at] == mark:
                self.twice += 1
                self.first = self.first or name
                return
            at = (at + 1) & last
        slots[at] = mark
        self._count += 1
