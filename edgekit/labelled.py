"""Labelled records: read, checked against the schema, and held against a model's answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgekit.calibration import Judged
from edgekit.confidence import Evidence, Trace, evidence
from edgekit.errors import InputError
from edgekit.files import parse_json, read_bounded
from edgekit.metrics import score_fields
from edgekit.spans import spans

_LIMIT: Final = 1 << 30
_SHAPE: Final = '{"id": …, "text": …, "expected": {…}}'


@dataclass(frozen=True)
class Labelled:
    """A text and what should be found in it."""

    id: str
    text: str
    expected: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A labelled file: its records, and the SHA-256 of its bytes."""

    records: list[Labelled]
    sha256: str


def read_task(path: Path, schema: Mapping[str, Any]) -> Task:
    """Read JSONL of ``{"id", "text", "expected"}``; every label must match ``schema``, patterns aside.

    Raises ``InputError`` that names the line for anything else, and for an id that comes twice.
    """
    data = read_bounded(path, _LIMIT)
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", path=path, found=str(error)) from error
    labels = Labels(schema)
    records: dict[str, Labelled] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = _record(line, path, number)
        if record.id in records:
            raise _wrong(path, number, "the id comes twice", record.id, "an id of its own for every record")
        labels.check(record, path, number)
        records[record.id] = record
    if not records:
        raise InputError("there is no labelled record", path=path, expected=f"lines of {_SHAPE}")
    return Task(list(records.values()), hashlib.sha256(data).hexdigest())


def _wrong(path: Path, number: int, what: str, found: object, expected: object) -> InputError:
    return InputError(f"line {number}: {what}", path=path, found=str(found)[:200], expected=expected)


def _record(line: str, path: Path, number: int) -> Labelled:
    try:
        case = parse_json(line.encode(), path)
    except InputError as error:
        raise _wrong(path, number, error.what, error.found, _SHAPE) from error
    for name, kind in (("id", str), ("text", str), ("expected", dict)):
        if not isinstance(case.get(name), kind):
            found = f"no {name}" if name not in case else f"{name}: {type(case[name]).__name__}"
            raise _wrong(path, number, "no labelled record", found, _SHAPE)
    if not case["text"].strip():
        raise _wrong(path, number, "the text is empty", repr(case["text"]), "a text to extract from")
    return Labelled(case["id"], case["text"], case["expected"])


class Labels:
    """Checks labels against the schema, so that those of another task aren't taken for a model's mistakes."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        from jsonschema import Draft202012Validator
        from jsonschema.validators import extend

        # A hostile pattern could run for ever, and a label needn't match it to be the right answer.
        self._validator = extend(Draft202012Validator, {"pattern": None, "patternProperties": None})(schema)

    def check(self, record: Labelled, path: Path, number: int) -> None:
        from jsonschema.exceptions import best_match
        from referencing.exceptions import Unresolvable

        try:
            error = best_match(self._validator.iter_errors(record.expected))
        except (Unresolvable, RecursionError) as failed:
            raise InputError("the output schema can't be followed", path=path, found=str(failed)) from failed
        if error is not None:
            place = "".join(f" {part}" for part in error.absolute_path)
            raise InputError(
                f"line {number}: the label doesn't match the bundle's output schema",
                path=path,
                found=f"expected{place}: {error.message}"[:300],
                next_step="correct the label (null where the text has no such value), or name the task's own file",
            )


def judge(record: Labelled, trace: Trace) -> Judged:
    """Hold a complete answer against its label, as ``edgekit.metrics`` does: leaf by leaf, and as a whole."""
    answer, found = trace.answer, evidence(trace, record.text)
    wanted, got = leaf_values(_compact(record.expected)), leaf_values(answer)
    right = tuple(_same(leaf, got, wanted) for leaf in found.leaves)
    whole = score_fields([(json.loads(answer), record.expected)]).records_right == 1
    return Judged(record.id, found, right, whole)


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def leaf_values(answer: bytes) -> dict[str, Any]:
    """The value of every leaf of a compact JSON answer, by path."""
    return {leaf.path: json.loads(answer[leaf.start : leaf.end]) for leaf in spans(answer)}


def _same(leaf: Evidence, got: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    pair = {"": got[leaf.path]}, {"": wanted.get(leaf.path)}
    return score_fields([pair]).records_right == 1
