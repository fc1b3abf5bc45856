"""How a record's result is written: a line of JSON, a row of a table, a line for the review."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from edgekit.answer import Extraction
from edgekit.pipeline.record import Fault, Record

_encode: Final = msgspec.json.Encoder().encode
DIGITS: Final = 4
"""Of a confidence: more would be noise."""
OWN: Final = ("id", "overall", "needs_review", "confidence", "calibrated", "error", "message")
"""Columns that every table has, around those of the schema."""


class Success(msgspec.Struct, gc=False):
    """A line of the output."""

    id: str
    data: Any
    confidence: dict[str, float]
    overall: float
    needs_review: bool
    calibrated: bool


class Error(msgspec.Struct, gc=False):
    """A line of the output for a record that has no data."""

    id: str
    data: None
    error: Fault


class Doubt(msgspec.Struct, gc=False):
    """A line of the review file."""

    id: str
    text: str | None
    """None where no text could be read."""
    data: Any
    doubtful: list[str]
    reasons: list[str]
    confidence: dict[str, float]
    answer: str | None
    """What the model wrote before it was cut off."""
    error: Fault | None


class Header(msgspec.Struct):
    """The review file's first line."""

    edgekit_review: int
    bundle: str
    schema: Any
    min_confidence: float | None


def fault_of(record: Record, extraction: Extraction) -> Fault | None:
    """Why the record has no data: its own fault first, then the model's."""
    if record.fault is not None:
        return record.fault
    failure = extraction.failure
    return None if failure is None else Fault(failure.code, failure.message)


def json_line(record: Record, extraction: Extraction, fault: Fault | None) -> bytes:
    """The line of a JSONL output."""
    if fault is not None:
        return _encode(Error(record.id, None, fault)) + b"\n"
    confidence = _rounded(extraction.confidence)
    overall = round(extraction.overall, DIGITS)
    made = Success(
        record.id, extraction.data, confidence, overall, extraction.needs_review, extraction.calibrated
    )
    return _encode(made) + b"\n"


def review_line(
    record: Record, extraction: Extraction, fault: Fault | None, threshold: float | None
) -> bytes:
    """The line of a record that somebody should look at."""
    confidence = {} if fault is not None else _rounded(extraction.confidence)
    doubtful, reasons = doubts(confidence, threshold)
    if fault is not None:
        reasons = [f"{fault.code}: {fault.message}"]
    elif not reasons:
        bound = "" if threshold is None else f", below {threshold:g}"
        reasons = [f"overall: {round(extraction.overall, DIGITS):g}{bound}"]
    answer = extraction.text if fault is not None and record.fault is None and extraction.text else None
    data = None if fault is not None else extraction.data
    text = record.text if record.fault is None else None
    made = Doubt(record.id, text, data, doubtful, reasons, confidence, answer, fault)
    return _encode(made) + b"\n"


def doubts(confidence: Mapping[str, float], threshold: float | None) -> tuple[list[str], list[str]]:
    """The fields below the threshold, and that in words."""
    if threshold is None:
        return [], []
    low = [name for name, value in confidence.items() if value < threshold]
    return low, [f"{name}: {confidence[name]:g}, below {threshold:g}" for name in low]


def review_header(bundle: str, schema: Mapping[str, Any], threshold: float | None) -> bytes:
    """The first line: what corrections are checked against."""
    return _encode(Header(1, bundle, schema, threshold)) + b"\n"


def _rounded(confidence: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, DIGITS) for name, value in confidence.items()}


class Columns:
    """The columns of a table: the record's id, the schema's fields, and what edgekit says about them."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        properties = schema.get("properties")
        closed = schema.get("additionalProperties") is False and schema.get("type") == "object"
        self.fields: list[str] | None = (
            list(properties) if closed and isinstance(properties, Mapping) else None
        )
        """The schema's fields, in its order; None where it has no fixed ones, so that all is one column of JSON."""
        kinds = {"data": "text"}
        if self.fields is not None and isinstance(properties, Mapping):
            kinds = {}
            for name in self.fields:
                own = name
                while own in OWN or own in kinds:
                    own = f"data.{own}"
                kinds[own] = _kind(properties[name])
        self.columns: list[tuple[str, str]] = [("id", "text"), *kinds.items()]
        self.columns += [("overall", "number"), ("needs_review", "boolean"), ("confidence", "text")]
        self.columns += [("calibrated", "boolean"), ("error", "text"), ("message", "text")]

    def row(self, line: Mapping[str, Any]) -> list[Any]:
        """A line of the JSONL output as values: text, integers, numbers, booleans, None; the rest as JSON."""
        error, data = line.get("error"), line["data"]
        names = self.fields
        width = 1 if names is None else len(names)
        if error is not None:
            return [line["id"], *[None] * width, None, None, None, None, error["code"], error["message"]]
        cells = [_text(data)] if names is None else [data.get(name) for name in names]
        kinds = [kind for _, kind in self.columns[1 : 1 + width]]
        cells = [_cell(value, kind) for value, kind in zip(cells, kinds, strict=True)]
        own = [
            line["overall"],
            line["needs_review"],
            _text(line["confidence"]),
            line["calibrated"],
            None,
            None,
        ]
        return [line["id"], *cells, *own]


def _kind(schema: Any) -> str:
    """integer, number or boolean where the field is that (or null) and nothing else; otherwise text."""
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    names = {kinds} if isinstance(kinds, str) else set(kinds or ())
    names.discard("null")
    if names == {"integer", "number"}:
        return "number"
    name = next(iter(names), "") if len(names) == 1 else ""
    return name if name in {"integer", "number", "boolean"} else "text"


def _cell(value: Any, kind: str) -> Any:
    """The value as its column's kind has it; what is no text goes into a column of text as JSON."""
    if value is None or isinstance(value, str) or kind != "text":
        return value
    return _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class CsvRows:
    """Rows of a CSV output: UTF-8, LF, quotes where needed; null is an empty field, booleans true and false."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._columns = Columns(schema)
        self._text = io.StringIO()
        self._writer = csv.writer(self._text, lineterminator="\n")

    def header(self) -> bytes:
        """The first row."""
        return self._bytes([name for name, _ in self._columns.columns])

    def row(self, line: bytes) -> bytes:
        """The row of a line of JSONL."""
        values = self._columns.row(msgspec.json.decode(line))
        return self._bytes([str(value).lower() if isinstance(value, bool) else value for value in values])

    def _bytes(self, values: Sequence[Any]) -> bytes:
        self._text.seek(0)
        self._text.truncate()
        self._writer.writerow(values)
        return self._text.getvalue().encode()


def split_rows(data: bytes, *, quoted: bool) -> list[bytes]:
    """The records of a part of an output; in CSV a quoted field may hold line ends."""
    lines = data.split(b"\n")
    lines = [line + b"\n" for line in lines[:-1]]
    if not quoted:
        return lines
    rows, row = [], b""
    for line in lines:
        row += line
        if row.count(b'"') % 2 == 0:
            rows.append(row)
            row = b""
    return rows
