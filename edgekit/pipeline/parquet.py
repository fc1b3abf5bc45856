"""Parquet in and out, through pyarrow, which is an extra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from edgekit.errors import InputError, RuntimeUnavailableError
from edgekit.pipeline.readers import Fields, Origin
from edgekit.pipeline.record import LIMIT, LONG, Fault, Record, bad_utf8, record_of, usable_id

BATCH: Final = 1024


def pyarrow() -> Any:
    """pyarrow with its parquet module, or ``RuntimeUnavailableError``."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RuntimeUnavailableError(
            "Parquet needs pyarrow", found=str(error), next_step="pip install 'edgekit[parquet]'"
        ) from error
    return pyarrow


class ParquetReader:
    """Records of a Parquet file, a batch of rows at a time; ``fraction`` says how far it is."""

    def __init__(self, path: Path, origin: Origin, fields: Fields) -> None:
        arrow = pyarrow()
        self._path, self._origin, self._fields, self._row = path, origin, fields, 0
        try:
            self._file = arrow.parquet.ParquetFile(path)
        except (arrow.ArrowException, OSError) as error:
            raise InputError("not readable as Parquet", path=path, found=str(error)) from error
        schema = self._file.schema_arrow
        self._check(schema, fields.text)
        self._name = fields.id or ("id" if "id" in schema.names else None)
        if self._name is not None and self._name not in schema.names:
            raise self._missing(schema, self._name)

    @property
    def fraction(self) -> float:
        """Of the rows, how many were given."""
        return self._row / max(1, int(self._file.metadata.num_rows))

    def __iter__(self) -> Iterator[Record]:
        arrow = pyarrow()
        names = [self._fields.text, *([] if self._name in (None, self._fields.text) else [self._name])]
        try:
            for batch in self._file.iter_batches(batch_size=BATCH, columns=names):
                # As binary: a text that is no UTF-8 is that record's fault alone.
                texts = batch.column(self._fields.text).cast(arrow.large_binary()).to_pylist()
                given = [None] * len(texts) if self._name is None else self._ids(batch.column(self._name))
                for text, name in zip(texts, given, strict=True):
                    self._row += 1
                    yield self._record(text, name)
        except (arrow.ArrowException, OSError) as error:
            raise InputError(
                f"can't be read after row {self._row:,}", path=self._path, found=str(error)
            ) from error

    def _ids(self, column: Any) -> list[Any]:
        arrow = pyarrow()
        if arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type):
            values = column.cast(arrow.large_binary()).to_pylist()
            return [None if value is None else value.decode("utf-8", "replace") for value in values]
        return list(column.to_pylist())

    def _record(self, text: bytes | None, given: Any) -> Record:
        place, source = f"{self._origin.name}:{self._row}", self._origin.number
        if self._fields.id is not None and usable_id(given) is None:
            return Record(
                place, "", source, Fault("field", f"the column {self._fields.id!r} holds no usable id")
            )
        if text is None:
            name = usable_id(given)
            return Record(
                name or place,
                "",
                source,
                Fault("field", f"the column {self._fields.text!r} is null"),
                name is not None,
            )
        if len(text) > LIMIT:
            return Record(place, "", source, LONG)
        try:
            return record_of(place, given, text.decode(), source)
        except UnicodeDecodeError as error:
            return Record(place, "", source, bad_utf8(error))

    def _check(self, schema: Any, name: str) -> None:
        arrow = pyarrow()
        if schema.names.count(name) != 1:
            raise self._missing(schema, name)
        kind = schema.field(name).type
        if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
            raise InputError(
                f"the column {name!r} is no text", path=self._path, found=str(kind), expected="string"
            )

    def _missing(self, schema: Any, name: str) -> InputError:
        return InputError(
            f"there is no column {name!r}",
            path=self._path,
            found=", ".join(schema.names)[:300],
            next_step="name columns with --text-field and --id-field",
        )


def write_parquet(path: Path, columns: Sequence[tuple[str, str]], rows: Iterator[list[Any]]) -> None:
    """Write rows under columns of (name, kind), kind one of text, integer, number, boolean.

    A column of integers or numbers with a value that Parquet's 64 bits can't hold raises ``Misfit``.
    """
    arrow = pyarrow()
    kinds = {
        "text": arrow.string(),
        "integer": arrow.int64(),
        "number": arrow.float64(),
        "boolean": arrow.bool_(),
    }
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns])
    with arrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        batch: list[list[Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == BATCH * 16:
                writer.write_table(_table(arrow, schema, batch))
                batch = []
        if batch:
            writer.write_table(_table(arrow, schema, batch))


def _table(arrow: Any, schema: Any, rows: list[list[Any]]) -> Any:
    arrays = []
    for index, field in enumerate(schema):
        values = [row[index] for row in rows]
        try:
            arrays.append(arrow.array(values, type=field.type))
        except (arrow.ArrowException, OverflowError) as error:
            raise Misfit(field.name) from error
    return arrow.Table.from_arrays(arrays, schema=schema)


class Misfit(Exception):
    """A column that doesn't hold what its kind says."""
