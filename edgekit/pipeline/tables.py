"""Outputs that are made at the end, from the durable lines: SQLite and Parquet. The same lines give the same bytes."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from edgekit.errors import InputError
from edgekit.pipeline.disk import Disk, disk_errors
from edgekit.pipeline.rows import Columns

TABLE: Final = "records"


def assemble(disk: Disk, kind: str, lines: Path, final: Path, schema: Mapping[str, Any]) -> None:
    """Write ``final`` from the JSONL ``lines``, whole or not at all."""
    temporary = final.with_name(f".{final.name}.edgekit-new")
    with disk_errors(final):
        disk.remove(temporary)
        try:
            if kind == "sqlite":
                _write_sqlite(temporary, Columns(schema), lines)
            else:
                _write_parquet(temporary, Columns(schema), lines)
            disk.publish(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)


def _rows(lines: Path, columns: Columns) -> Iterator[list[Any]]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    with lines.open("rb") as file:
        for line in file:
            yield columns.row(decode(line))


def _write_sqlite(path: Path, columns: Columns, lines: Path) -> None:
    """One table in a fresh file, filled in order in one transaction: nothing of the run's course is left in it."""
    # A column declared INTEGER would turn the text of an integer beyond 64 bits into a float.
    kinds = {"text": "TEXT", "integer": "", "number": "REAL", "boolean": "INTEGER"}
    names = ['"n" INTEGER PRIMARY KEY']
    names += [f"{_quoted(name)} {kinds[kind]}" for name, kind in _distinct(columns.columns)]
    marks = ",".join("?" * len(names))
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as base:
            base.execute("PRAGMA journal_mode=OFF")  # the file is thrown away if this doesn't end well
            base.execute("PRAGMA synchronous=OFF")  # flushed as a whole before it takes its name
            base.execute("PRAGMA page_size=4096")
            base.execute("BEGIN")
            base.execute(f"CREATE TABLE {TABLE} ({', '.join(names)})")
            numbered = ([n, *map(_storable, row)] for n, row in enumerate(_rows(lines, columns), 1))
            base.executemany(f"INSERT INTO {TABLE} VALUES ({marks})", numbered)
            base.execute(f"CREATE INDEX {TABLE}_id ON {TABLE} (id)")
            base.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in {
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_CANTOPEN,
        }:
            raise OSError(errno.EIO, str(error)) from error
        raise InputError(
            "SQLite can't hold this schema", path=path, found=str(error), next_step="--format jsonl"
        ) from error


def _distinct(columns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """SQLite knows no upper and lower case in names: ``Name`` beside ``name`` becomes ``Name_2``."""
    seen = {"n"}
    out = []
    for name, kind in columns:
        own, count = name, 1
        while own.casefold() in seen:
            count += 1
            own = f"{name}_{count}"
        seen.add(own.casefold())
        out.append((own, kind))
    return out


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _storable(value: Any) -> Any:
    """Integers beyond 64 bits as text: SQLite has none."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    return value


def _write_parquet(path: Path, columns: Columns, lines: Path) -> None:
    """A column with a value that its kind can't hold is written as text, all of it."""
    from edgekit.pipeline.parquet import Misfit, write_parquet

    kinds = dict(columns.columns)
    while True:
        texts = [kind == "text" for kind in kinds.values()]
        rows = (
            [str(v) if text and v is not None else v for v, text in zip(row, texts, strict=True)]
            for row in _rows(lines, columns)
        )
        try:
            return write_parquet(path, list(kinds.items()), rows)
        except Misfit as misfit:
            kinds[str(misfit)] = "text"
