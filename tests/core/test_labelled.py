"""Labelled records: every unsound line is named, and a field is right as edgekit.metrics says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.confidence import Trace
from edgekit.errors import InputError
from edgekit.labelled import Labelled, judge, leaf_values, read_task
from edgekit.metrics import score_fields
from tests.core.test_calibrate import SCHEMA, label, write_task


def test_a_sound_task(tmp_path: Path) -> None:
    records = [
        label(0),
        label(1, text="line\u2028separator"),
        label(2, expected={"name": None, "n": 1}, source="kept out"),
    ]
    path = write_task(tmp_path / "t.jsonl", records)
    path.write_text(path.read_text() + "\n \n")
    task = read_task(path, SCHEMA)
    assert [record.id for record in task.records] == ["r0", "r1", "r2"]
    assert task.records[1].text == "line\u2028separator"
    assert task.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


UNSOUND: list[tuple[Any, str]] = [
    ({"text": "x", "expected": {}}, "no id"), ({"id": "x", "expected": {}}, "no text"), ({"id": "x", "text": "y"}, "no expected"),
    (label(1, id=7), "id: int"), (label(1, text=None), "text: NoneType"), (label(1, expected=[]), "expected: list"),
    (label(1, text=" \n"), "the text is empty"), (label(0), "the id comes twice"), ([], "not a JSON object"),
    (label(1, expected={"n": 1}), "'name' is a required property"), (label(1, expected={}), "required property"),
    (label(1, expected={"name": "x", "n": 1, "category": "y"}), "category"), (label(1, expected={"name": "x", "n": "1"}), "expected n"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "message"), UNSOUND)
def test_unsound_lines_are_named(tmp_path: Path, record: Any, message: str) -> None:
    path = write_task(tmp_path / "t.jsonl", [label(0), record])
    with pytest.raises(InputError, match="line 2: ") as caught:
        read_task(path, SCHEMA)
    assert message in str(caught.value) and caught.value.path == str(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no labelled record"), (b"\n\n", "no labelled record"), (b'{"id": "\xff"}\n', "not UTF-8"),
        (b"{\n", "line 1"), (b'{"id":"a","id":"b"}\n', "twice"), (b"[" * 100_000, "line 1"),
        (b'{"id":"\\ud800","text":"x","expected":{}}', "surrogate"),
    ],
)  # fmt: skip
def test_files_that_are_no_task(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "t.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_task(tmp_path / "t.jsonl", SCHEMA)
    with pytest.raises(InputError, match="missing"):
        read_task(tmp_path / "nothing.jsonl", SCHEMA)


def test_a_schema_that_leads_nowhere(tmp_path: Path) -> None:
    path = write_task(tmp_path / "t.jsonl", [label(0)])
    for schema in ({"$ref": "#/$defs/none"}, {"$ref": "https://example.com/schema.json"}, {"$ref": "#"}):
        with pytest.raises(InputError, match="can't be followed"):
            read_task(path, schema)


def judged(answer: str, expected: dict[str, Any]) -> tuple[dict[str, bool], bool]:
    trace = Trace([answer.encode()], [-0.1], [-3.0])
    found = judge(Labelled("x", "some text", expected), trace)
    return {leaf.path: ok for leaf, ok in zip(found.answer.leaves, found.leaves, strict=True)}, found.record


def test_fields_are_right_as_the_metrics_say() -> None:
    assert judged('{"a":" x","b":null,"c":1}', {"a": "x ", "c": 2}) == (
        {"a": True, "b": True, "c": False},
        False,
    )
    assert judged('{"a":null}', {"a": "x"}) == ({"a": False}, False)
    assert judged('{"a":{"b":1,"c":2}}', {"a": {"b": 1, "c": 3}}) == ({"a.b": True, "a.c": False}, False)
    assert judged('{"i":[1,2]}', {"i": [1]}) == ({"i[0]": True, "i[1]": False}, False)
    assert judged('{"i":[1]}', {"i": [1, 2]}) == (
        {"i[0]": True},
        False,
    )  # only the whole shows what is missing
    assert judged('{"a":1}', {"a": 1, "b": 2}) == ({"a": True}, False)
    assert judged('{"a":"x"}', {"a": "x", "b": None}) == ({"a": True}, True)


FLAT = st.dictionaries(
    st.sampled_from("abc"), st.none() | st.integers(0, 3) | st.sampled_from(["x", " x", "y"]), min_size=1
)


@given(found=FLAT, expected=FLAT)
def test_flat_records_agree_with_the_score(found: dict[str, Any], expected: dict[str, Any]) -> None:
    answer = json.dumps(found, separators=(",", ":"))
    fields, whole = judged(answer, expected)
    score = score_fields([(found, expected)])
    assert whole == (score.records_right == 1)
    there = [name for name, value in found.items() if value is not None]
    assert sum(fields[name] for name in there) == pytest.approx(score.precision * len(there))
    assert leaf_values(answer.encode()) == found
