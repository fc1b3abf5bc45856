"""From the lines of one input to its records: JSONL, plain lines, CSV and TSV."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from edgekit.errors import InputError
from edgekit.pipeline.lines import Lines
from edgekit.pipeline.record import LIMIT, LONG, NUL, Fault, Record, bad_utf8, record_of, usable_id

PROBE: Final = 20
"""Records without the text's field, from the input's start on, that make it a wrong name and no bad record."""


@dataclass(frozen=True)
class Fields:
    """Where a record's text and id stand; without ``id`` a field ``id`` is taken where it is there."""

    text: str = "text"
    id: str | None = None
    delimiter: str = ","


@dataclass(frozen=True)
class Origin:
    """An input's name, as ids begin with, and its number among the inputs."""

    name: str
    number: int


def read_lines(lines: Lines, origin: Origin) -> Iterator[Record]:
    """A record per line; a blank line is one too, an empty one."""
    for line in lines:
        place = f"{origin.name}:{lines.number}"
        if line is None:
            yield Record(place, "", origin.number, LONG)
            continue
        try:
            yield record_of(place, None, line.decode(), origin.number)
        except UnicodeDecodeError as error:
            yield Record(place, "", origin.number, bad_utf8(error))


def read_jsonl(lines: Lines, origin: Origin, fields: Fields) -> Iterator[Record]:
    """A record per line with an object; blank lines are none. ``InputError`` where the first 20 lack the field."""
    row = msgspec.defstruct(
        "Row",
        [("text", Any, msgspec.UNSET), ("id", Any, msgspec.UNSET)],
        rename={"text": fields.text, "id": fields.id or "id"},
    )
    decode = msgspec.json.Decoder(row).decode
    held: deque[Record] = deque()
    probing, keys = True, ""
    for line in lines:
        if line is not None and (not line or line.isspace()):
            continue
        place = f"{origin.name}:{lines.number}"
        record = _from_json(line, place, origin.number, fields, decode)
        if not probing:
            yield record
            continue
        held.append(record)
        keys = keys or _keys(line)
        if record.fault is None or record.fault.code != "field":
            probing = False
            yield from held
        elif len(held) >= PROBE:
            break
    if probing and held:
        raise _no_field(origin.name, fields.text, keys)


def _from_json(line: bytes | None, place: str, source: int, fields: Fields, decode: Any) -> Record:
    if line is None:
        return Record(place, "", source, LONG)
    try:
        row = decode(line)
    except UnicodeDecodeError as error:
        return Record(place, "", source, bad_utf8(error))
    except (msgspec.DecodeError, RecursionError) as error:
        if b"\\ud" in line.lower():
            fault = Fault(
                "encoding", "a string holds half of a surrogate pair, or the line is no JSON object"
            )
        else:
            fault = Fault("malformed", f"not one JSON object: {error}")
        return Record(place, "", source, fault)
    if fields.id is not None and usable_id(row.id) is None:
        return Record(place, "", source, _wrong_field(fields.id, row.id, "a string or an integer"))
    if not isinstance(row.text, str):
        name = usable_id(row.id)
        fault = _wrong_field(fields.text, row.text, "a string")
        return Record(name or place, "", source, fault, name is not None)
    return record_of(place, row.id, row.text, source)


def _wrong_field(name: str, value: object, expected: str) -> Fault:
    if value is msgspec.UNSET:
        return Fault("field", f"there is no field {name!r}")
    kinds = {
        dict: "an object",
        list: "an array",
        type(None): "null",
        bool: "a boolean",
        str: "an unusable text",
    }
    found = kinds.get(type(value), "a number")
    return Fault("field", f"the field {name!r} is {found}, not {expected}")


def _keys(line: bytes | None) -> str:
    try:
        return ", ".join(msgspec.json.decode(line or b"{}", type=dict[str, msgspec.Raw]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _no_field(path: str, field: str, found: str) -> InputError:
    return InputError(
        f"no record has a text in the field {field!r}",
        path=path,
        found=found[:300] or "no fields",
        expected=f"{field!r} with a string",
        next_step="name the field with --text-field",
    )


class _TooLong(Exception):
    """A line above the limit; the next one can be read."""


class _Decoded:
    """Lines as csv wants them; bytes that are no UTF-8 become surrogates, which are found in the field."""

    def __init__(self, lines: Lines) -> None:
        self._lines = iter(lines)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if line is None:
            raise _TooLong
        return line.decode("utf-8", "surrogateescape") + "\n"


def read_csv(lines: Lines, origin: Origin, fields: Fields, *, tabs: bool = False) -> Iterator[Record]:
    """A record per row under a header; quoted fields may hold line ends. In TSV a quote is a plain character."""
    csv.field_size_limit(LIMIT)
    if tabs:
        rows = csv.reader(_Decoded(lines), delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
    else:
        rows = csv.reader(_Decoded(lines), delimiter=fields.delimiter, strict=True)
    found = _next_row(rows)
    if found is None:
        return
    header = found if isinstance(found, list) else []
    text, name = _columns(header, origin.name, fields)
    while True:
        place = f"{origin.name}:{lines.number + 1}"
        row = _next_row(rows)
        if row is None:
            return
        if row == []:
            continue
        if isinstance(row, Fault):
            span = "" if place.endswith(f":{lines.number}") else f" (up to line {lines.number})"
            yield Record(place, "", origin.number, Fault(row.code, row.message + span))
        else:
            yield _from_row(row, place, origin.number, len(header), text, name, fields)


def _next_row(rows: Iterator[list[str]]) -> list[str] | Fault | None:
    try:
        return next(rows, None)
    except _TooLong:
        return LONG
    except csv.Error as error:
        return Fault("malformed", f"not a CSV row: {error}")


def _columns(header: Sequence[str], path: str, fields: Fields) -> tuple[int, int | None]:
    """Which columns hold the text and the id."""
    shown = ", ".join(header)[:300].encode("utf-8", "replace").decode()
    for field in (fields.text, fields.id):
        if field is not None and header.count(field) != 1:
            raise InputError(
                f"the header has {'no' if field not in header else 'more than one'} column {field!r}",
                path=path,
                found=shown,
                expected=f"one column {field!r}",
                next_step="name columns with --text-field and --id-field, another separator with --delimiter",
            )
    name = fields.id or ("id" if header.count("id") == 1 else None)
    return header.index(fields.text), None if name is None else header.index(name)


def _from_row(
    row: list[str], place: str, source: int, columns: int, text: int, name: int | None, fields: Fields
) -> Record:
    if len(row) != columns:
        message = f"the row has {len(row)} fields, the header {columns}: quote texts that hold the separator"
        return Record(place, "", source, Fault("malformed", message))
    given = None if name is None else row[name]
    try:
        row[text].encode()
        if given is not None:
            given.encode()
    except UnicodeEncodeError as error:
        return Record(
            place,
            "",
            source,
            Fault("encoding", f"not UTF-8: byte 0x{ord(error.object[error.start]) - 0xDC00:02x}"),
        )
    if fields.id is not None and usable_id(given) is None:
        fault = NUL if given else Fault("field", f"the column {fields.id!r} is empty")
        return Record(place, "", source, fault)
    return record_of(place, given, row[text], source)
