"""Doubtful records and what people decided about them, as labelled data that is never lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from edgekit.errors import InputError
from edgekit.files import MALFORMED, require_file
from edgekit.pipeline.disk import AppendFile, Disk, disk_errors, locked
from edgekit.pipeline.rows import Doubt, Header

_STEP: Final = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
MOST_ITEMS: Final = 1000


class Label(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A line of the labelled data, as a fine-tune takes it."""

    id: str
    text: str
    expected: Any


def read_review(path: Path) -> tuple[Header, list[Doubt]]:
    """A review file: what its values must fit, and its records. A last line that is still being written is left out."""
    require_file(path, "the review file")
    with path.open("rb") as file:
        lines = file.read().split(b"\n")[:-1]
    try:
        header = msgspec.json.decode(lines[0] if lines else b"", type=Header)
    except MALFORMED as error:
        raise InputError(
            "not a review file",
            path=path,
            found=str(error),
            expected="a first line with the schema",
            next_step="edgekit extract … --review FILE writes one",
        ) from error
    doubts = []
    for number, line in enumerate(lines[1:], 2):
        try:
            doubts.append(msgspec.json.decode(line, type=Doubt))
        except MALFORMED as error:
            raise InputError(f"line {number} is no record to review", path=path, found=str(error)) from error
    return header, doubts


class Labels:
    """The decisions so far, by id and text; each is on the disk before the next question is asked."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path, self._disk = path, disk
        self._labels: dict[tuple[str, str], Label] = {}
        whole = 0
        if path.exists():
            data = require_file(path, "the labelled data").read_bytes()
            if data and not data.endswith(b"\n"):  # torn by a crash; a line that is whole is kept
                data = data + b"\n" if _is_label(data.rpartition(b"\n")[2]) else data[: data.rfind(b"\n") + 1]
            self._read(data)
            whole = len(data)
        with disk_errors(path):
            self._file = AppendFile(disk, path, min(whole, path.stat().st_size) if path.exists() else 0)
            if whole > self._file.size:
                self._file.append(b"\n")
            self._file.sync()
            disk.sync_folder(path.parent)

    def _read(self, data: bytes) -> None:
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            try:
                label = msgspec.json.decode(line, type=Label)
            except MALFORMED as error:
                raise InputError(
                    f"line {number} is no labelled record",
                    path=self._path,
                    found=str(error),
                    expected='{"id": …, "text": …, "expected": …}',
                    next_step="choose another file with -o",
                ) from error
            self._labels[label.id, label.text] = label

    def __len__(self) -> int:
        return len(self._labels)

    def of(self, doubt: Doubt) -> Label | None:
        """What was decided about a record before."""
        return self._labels.get((doubt.id, doubt.text or ""))

    def put(self, doubt: Doubt, expected: Any) -> None:
        """Keep a decision; one that is changed takes the place of the earlier one."""
        label = Label(doubt.id, doubt.text or "", expected)
        before = self._labels.get((label.id, label.text))
        if before == label:
            return
        labels = {**self._labels, (label.id, label.text): label}
        with disk_errors(self._path):
            if before is None:
                self._file.append(_line(label))
                self._file.sync()
            else:
                data = b"".join(map(_line, labels.values()))
                self._disk.write_whole(self._path, data)
                self._file.close()
                self._file = AppendFile(self._disk, self._path, len(data))
        self._labels = labels

    def close(self) -> None:
        """Close the file; everything is in it."""
        self._file.close()


@contextmanager
def open_labels(path: Path, disk: Disk | None = None) -> Iterator[Labels]:
    """The labelled data at ``path``, new or gone on with; one at a time."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        labels = Labels(path, disk or Disk())
        try:
            yield labels
        finally:
            labels.close()


def _line(label: Label) -> bytes:
    return json.dumps(msgspec.structs.asdict(label), ensure_ascii=False).encode() + b"\n"


def _is_label(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=Label)
    except MALFORMED:
        return False
    return True


def blank(schema: Mapping[str, Any]) -> Any:
    """A value to begin with where the model gave none: the fields that must or may be null, null."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return None
    required = schema.get("required") or ()
    return {name: None for name, part in properties.items() if name in required or _nullable(part)}


def _nullable(schema: Any) -> bool:
    return isinstance(schema, Mapping) and isinstance(schema.get("type"), list) and "null" in schema["type"]


def with_value(data: Any, field: str, text: str | None, schema: Mapping[str, Any]) -> Any:
    """``data`` with ``field`` (``date``, ``address.city``, ``items[0].price``) set to what ``text`` says.

    Text is taken as it stands where the schema wants a string there, and as JSON elsewhere; None sets null.
    ``InputError`` says what is wrong with the field or the value, against the whole schema.
    """
    steps = _steps(data, field)
    value = None if text is None else _value(text, _part(schema, steps))
    changed = json.loads(json.dumps(data))
    place = changed
    for at, step in enumerate(steps):
        _require(place, step, field, _part(schema, steps[:at]))
        if at < len(steps) - 1:
            place = _inner(place, step)
        elif isinstance(place, list) and step == len(place):
            place.append(value)
        else:
            place[step] = value
    return check(changed, schema, steps)


def _steps(data: Any, field: str) -> list[str | int]:
    if isinstance(data, dict) and field in data:
        return [field]
    found = list(_STEP.finditer(field))
    shown = "".join(part.group() for part in found)
    if not found or shown.replace(".", "") != field.replace(".", ""):
        raise InputError("no field", found=field, expected="a name such as date, address.city or items[0]")
    return [part[1] if part[2] is None else int(part[2]) for part in found]


def _require(place: Any, step: str | int, field: str, schema: Mapping[str, Any]) -> None:
    """``place`` holds ``step``, or may by its schema."""
    if isinstance(step, int):
        known, fits = None, isinstance(place, list) and step <= len(place) < MOST_ITEMS
    else:
        names = [*(place if isinstance(place, dict) else ()), *(schema.get("properties") or ())]
        known, fits = ", ".join(dict.fromkeys(names)), isinstance(place, dict) and step in names
    if not fits:
        raise InputError(f"there is no field {field!r}", found=field, expected=known)


def _inner(place: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return place[step] if step < len(place) else None
    return place.get(step)


def _part(schema: Any, steps: list[str | int]) -> Any:
    """The schema of a place, as far as it can be seen without resolving anything."""
    for step in steps:
        if not isinstance(schema, Mapping):
            return {}
        schema = schema.get("items") if isinstance(step, int) else (schema.get("properties") or {}).get(step)
    return schema if isinstance(schema, Mapping) else {}


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    kinds = schema.get("type", [])
    names = {kinds} if isinstance(kinds, str) else set(kinds)
    plain = names and names <= {"string", "null"}
    if plain and not text.startswith('"'):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if plain or not names or "string" in names:
            return text
        raise InputError("no value of this field", found=text, expected=" or ".join(sorted(names))) from error


def check(data: Any, schema: Mapping[str, Any], steps: list[str | int] | None = None) -> Any:
    """``data`` if the schema allows it, or allows what is at ``steps``: the other fields may still be to come.

    Patterns are left aside: Python's could take for ever on a hostile one.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from jsonschema.validators import extend

    def passes(*_: Any) -> tuple[()]:
        return ()

    def closed(validator: Any, value: Any, instance: Any, part: Mapping[str, Any]) -> Any:
        own = Draft202012Validator.VALIDATORS["additionalProperties"]
        return () if "patternProperties" in part else own(validator, value, instance, part)

    left_aside = {"pattern": passes, "patternProperties": passes, "additionalProperties": closed}
    validator = extend(Draft202012Validator, left_aside)
    errors = validator(schema).iter_errors(data)
    if steps is not None:
        errors = (error for error in errors if list(error.absolute_path)[: len(steps)] == steps)
    error = best_match(errors)
    if error is not None:
        raise InputError(
            f"the schema doesn't allow that in {error.json_path}",
            found=error.message[:300],
            next_step="another value",
        )
    return data
