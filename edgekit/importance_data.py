"""Calibration data: plain text or JSONL records, checked before a model is opened, and turned into token sequences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edgekit import chat
from edgekit.errors import InputError
from edgekit.files import parse_json, read_bounded
from edgekit.golden import WHEN
from edgekit.labelled import Labelled, Labels
from edgekit.prompts import PLACE

if TYPE_CHECKING:
    from edgekit.runtimes.engine import Engine

LIMIT: Final = 1 << 28
RECORDS: Final = frozenset({".jsonl", ".ndjson"})
"""A file of another ending is plain text."""
CHUNK: Final = 512
"""Tokens that are read from an empty context, as llama-imatrix does."""
_SHAPE: Final = '{"text", "expected"}, {"text"} or {"messages"}'


class Record(msgspec.Struct, frozen=True):
    """A record of the file: text as it stands, or messages, and how the model goes on after them."""

    line: int
    text: str | None = None
    messages: list[dict[str, Any]] = []
    answer: str | None = None
    """None where the messages are the whole of a conversation."""


class Data(msgspec.Struct, frozen=True):
    """A whole text that is cut into chunks, or records that are each read on their own."""

    path: str
    text: str | None = None
    records: list[Record] = []


def read(path: Path, prompt: str | None, system: str | None, schema: Mapping[str, Any] | None = None) -> Data:
    """Read and check a calibration file; task records become what ``prompt`` and ``system`` ask and what is expected.

    ``InputError`` names the line of a record that is of no known shape, or that doesn't match ``schema``.
    """
    kind = path.suffix.lower()
    if kind == ".json":
        raise InputError(
            "calibration records come one a line", path=path, found=".json", expected=".jsonl, or plain text"
        )
    data = read_bounded(path, LIMIT)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unread(path, str(error)) from error
    if "\0" in text:
        raise _unread(path, f"a zero byte at character {text.index(chr(0)):,}")
    if not text.strip():
        raise InputError("the calibration file is empty", path=path, expected="text, or records as JSONL")
    if kind not in RECORDS:
        return Data(str(path), text)
    return Data(str(path), records=list(_records(path, text, _Reading(prompt, system, schema))))


def _unread(path: Path, found: str) -> InputError:
    return InputError(
        "calibration data can't be read",
        path=path,
        found=found,
        expected="UTF-8 text, JSONL records, or an importance matrix as GGUF",
        next_step="an importance matrix in the older .dat format goes with --imatrix",
    )


class _Reading:
    """How records are read, and what the last ones were called."""

    def __init__(self, prompt: str | None, system: str | None, schema: Mapping[str, Any] | None) -> None:
        self.prompt = prompt
        self.start = [] if system is None else [{"role": "system", "content": system}]
        self.labels = None if schema is None else Labels(schema)
        self.seen: set[str] = set()


def _records(path: Path, text: str, reading: _Reading) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            case = parse_json(line.encode(), path)
        except InputError as error:
            raise _wrong(path, number, error.what, error.found) from error
        name = case.get("id")
        if isinstance(name, str):
            if name in reading.seen:
                raise _wrong(path, number, "the id comes twice", name, "an id of its own for every record")
            reading.seen.add(name)
        yield _record(path, number, case, reading)


def _record(path: Path, number: int, case: Mapping[str, Any], reading: _Reading) -> Record:
    if "messages" in case:
        messages = case["messages"]
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise _wrong(path, number, "no conversation", repr(messages))
        return Record(number, messages=messages)
    text, expected = case.get("text"), case.get("expected")
    if not isinstance(text, str) or not text.strip():
        raise _wrong(path, number, "no record to calibrate on", f"keys {', '.join(case) or 'none'}")
    if expected is None and reading.prompt is None:
        return Record(number, text=text)
    if reading.prompt is None:
        raise InputError(
            f"line {number}: a task's record, and no prompt to ask it with",
            path=path,
            found='"expected"',
            expected=f"a prompt template with {PLACE}",
            next_step="pass --prompt FILE, or calibrate with the project file that has one",
        )
    if expected is not None and not isinstance(expected, dict):
        raise _wrong(path, number, "what is expected is no object", type(expected).__name__)
    if expected is not None and reading.labels:
        reading.labels.check(Labelled(str(number), text, expected), path, number)
    asked = {"role": "user", "content": reading.prompt.replace(PLACE, text, 1)}
    said = "" if expected is None else json.dumps(expected, separators=(",", ":"), ensure_ascii=False)
    return Record(number, messages=[*reading.start, asked], answer=said)


def _wrong(path: Path, number: int, what: str, found: object, expected: str = _SHAPE) -> InputError:
    return InputError(f"line {number}: {what}", path=path, found=str(found)[:200], expected=expected)


def sequences(data: Data, engine: Engine, size: int, most: int | None = None) -> list[list[int]]:
    """Token ids as they are read, each from an empty context: at most ``size`` in one, ``most`` times ``size`` in all.

    A text is cut as llama-imatrix does it: every chunk is whole, and bos takes the place of its first token where
    the model starts texts with it. A record that is longer than a chunk is cut, too. Raises ``InputError`` for less
    than one chunk in all.
    """
    if data.text is not None:
        bos = _bos(engine)
        ids = [*bos, *engine.tokenize(data.text, special=False)]
        found = [[*bos, *ids[at + len(bos) : at + size]] for at in range(0, len(ids) - size + 1, size)][:most]
        count = len(ids)
    else:
        found, count = [], 0
        for record in data.records:
            ids = _tokens(data.path, record, engine)
            found += [ids[at : at + size] for at in range(0, len(ids), size)]
            count += len(ids)
            if most and count >= most * size:
                break
    if count < size:
        raise InputError(
            "too little to calibrate on",
            path=data.path,
            found=f"{count:,} tokens",
            expected=f"one chunk of {size:,} tokens at least; a hundred are usual",
            next_step="add text or records, or pass a smaller --chunk",
        )
    return found


def _bos(engine: Engine) -> list[int]:
    """What a text begins with, if anything."""
    token = engine.specials.get(engine.bos_token) if engine.add_bos else None
    return [] if token is None else [token]


def _tokens(path: str, record: Record, engine: Engine) -> list[int]:
    if record.text is not None:
        return [*_bos(engine), *engine.tokenize(record.text, special=False)]
    try:
        return _turns(record, engine)
    except InputError as error:
        raise InputError(
            f"line {record.line}: {error.what}",
            path=path,
            found=error.found,
            expected=error.expected,
            next_step=error.next_step,
        ) from error


def _turns(record: Record, engine: Engine) -> list[int]:
    said = [] if not record.answer else engine.tokenize(record.answer, special=False)
    if engine.chat_template is not None:
        asking = record.answer is not None
        asked = chat.tokenize(
            engine, engine.chat_template, record.messages, add_generation_prompt=asking, now=WHEN
        )
        return [*asked, *said]
    if record.answer is None or len(record.messages) > 1:
        raise InputError(
            "messages need a chat template, and the model has none",
            expected="records with text alone, without a system text",
        )
    return [*_bos(engine), *engine.tokenize(record.messages[0]["content"], special=False), *said]
