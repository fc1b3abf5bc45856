"""What is written: lines, rows, tables and the review file, in their documented shapes."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from edgekit.answer import Extraction, Failure
from edgekit.pipeline import Job, extract_files
from edgekit.pipeline.rows import Columns, split_rows
from tests.pipeline.stand_ins import bundle, job_in

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": ["string", "null"]},
        "count": {"type": ["integer", "null"]},
        "price": {"type": "number"},
        "open": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "mixed": {"type": ["string", "integer"]},
    },
    "required": ["id", "count", "price", "open", "tags", "mixed"],
    "additionalProperties": False,
}
DATA: dict[str, Any] = {"id": 'a "b",\nc', "count": 3, "price": 1.5, "open": True, "tags": ["é"], "mixed": 7}
SURE = {"id": 0.987654, "count": 0.5, "price": 1.0}


class Gives:
    """A model that gives these, in turn."""

    epoch, batching = 16, "one after the other"

    def __init__(self, *results: Extraction) -> None:
        self._results = results

    def extract_many(self, texts: Iterable[str], *_: Any, **__: Any) -> Iterator[Extraction]:
        for _text, result in zip(texts, self._results, strict=True):
            yield result


def good(data: Any, *, calibrated: bool = True, doubtful: bool = False) -> Extraction:
    return Extraction(data, json.dumps(data), False, 5, 1.23, SURE, 0.49381, doubtful, calibrated)


def bad(code: Any, text: str = "") -> Extraction:
    failure = Failure(code, f"it is {code}")
    return Extraction(None, text, code == "truncated", 5, 1.23, needs_review=True, failure=failure)


RESULTS = (good(DATA), good({**DATA, "id": None, "count": None}, doubtful=True), bad("truncated", '{"id"'))


def run(folder: Path, name: str, *results: Extraction, schema: Any = SCHEMA, **changes: Any) -> Job:
    bundle(folder)
    lines = [json.dumps({"id": f"r{n}", "text": f"text {n}"}) for n in range(len(results))]
    (folder / "in.jsonl").write_text("\n".join(lines))
    job = job_in(folder, name, schema=schema, min_confidence=0.6, **changes)
    extract_files(job, load=lambda: nullcontext(Gives(*results)))
    return job


def test_lines_of_json(tmp_path: Path) -> None:
    job = run(tmp_path, "out.jsonl", *RESULTS)
    confidence = {"id": 0.9877, "count": 0.5, "price": 1.0}
    rest = {"confidence": confidence, "overall": 0.4938, "calibrated": True}
    assert [json.loads(line) for line in job.out.read_text().splitlines()] == [
        {"id": "r0", "data": DATA, "needs_review": False, **rest},
        {"id": "r1", "data": {**DATA, "id": None, "count": None}, "needs_review": True, **rest},
        {"id": "r2", "data": None, "error": {"code": "truncated", "message": "it is truncated"}},
    ]


def test_the_review_file(tmp_path: Path) -> None:
    job = run(tmp_path, "out.jsonl", *RESULTS, bad("too_long"))
    assert job.review is not None
    header, doubt, cut, long = [json.loads(line) for line in job.review.read_text().splitlines()]
    assert header == {"edgekit_review": 1, "bundle": "model.gguf", "schema": SCHEMA, "min_confidence": 0.6}
    assert doubt == {
        "id": "r1",
        "text": "text 1",
        "data": {**DATA, "id": None, "count": None},
        "doubtful": ["count"],
        "reasons": ["count: 0.5, below 0.6"],
        "confidence": {"id": 0.9877, "count": 0.5, "price": 1.0},
        "answer": None,
        "error": None,
    }
    assert (cut["text"], cut["data"], cut["answer"]) == ("text 2", None, '{"id"')
    assert cut["reasons"] == ["truncated: it is truncated"]
    assert long["error"] == {"code": "too_long", "message": "it is too_long"}


def test_a_record_that_is_doubtful_as_a_whole(tmp_path: Path) -> None:
    sure = Extraction(DATA, "", False, 5, 0.1, {"id": 0.9}, 0.49381, True)
    job = run(tmp_path, "out.jsonl", sure)
    assert job.review is not None
    doubt = json.loads(job.review.read_text().splitlines()[1])
    assert (doubt["doubtful"], doubt["reasons"]) == ([], ["overall: 0.4938, below 0.6"])


def test_rows_of_csv(tmp_path: Path) -> None:
    job = run(tmp_path, "out.csv", *RESULTS)
    rows = list(csv.reader(io.StringIO(job.out.read_text(), newline="")))
    confidence = '{"id":0.9877,"count":0.5,"price":1.0}'
    own = ["overall", "needs_review", "confidence", "calibrated", "error", "message"]
    assert rows == [
        ["id", "data.id", "count", "price", "open", "tags", "mixed", *own],
        ["r0", 'a "b",\nc', "3", "1.5", "true", '["é"]', "7", "0.4938", "false", confidence, "true", "", ""],
        ["r1", "", "", "1.5", "true", '["é"]', "7", "0.4938", "true", confidence, "true", "", ""],
        ["r2", *[""] * 10, "truncated", "it is truncated"],
    ]
    assert split_rows(job.out.read_bytes(), quoted=True)[1].startswith(b'r0,"a ""b"",\nc",3')
    assert b"".join(split_rows(job.out.read_bytes(), quoted=True)) == job.out.read_bytes()


def test_a_sqlite_table(tmp_path: Path) -> None:
    huge = good({**DATA, "count": 10**30})
    job = run(tmp_path, "out.sqlite", *RESULTS, huge)
    base = sqlite3.connect(job.out)
    base.row_factory = sqlite3.Row
    rows = [dict(row) for row in base.execute("SELECT * FROM records ORDER BY n")]
    base.close()
    assert [row["id"] for row in rows] == ["r0", "r1", "r2", "r3"]
    assert (rows[0]["data.id"], rows[0]["count"], rows[0]["price"], rows[0]["open"]) == (
        'a "b",\nc',
        3,
        1.5,
        1,
    )
    assert (rows[0]["tags"], rows[0]["mixed"], rows[1]["count"]) == ('["é"]', "7", None)
    assert (rows[2]["error"], rows[2]["price"]) == ("truncated", None)
    assert rows[3]["count"] == str(10**30)


def test_a_parquet_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    table = parquet.read_table(run(tmp_path / "a", "out.parquet", *RESULTS).out)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["count"] == "int64" and kinds["price"] == "double" and kinds["open"] == "bool"
    rows = table.to_pylist()
    assert (rows[0]["data.id"], rows[0]["count"], rows[0]["tags"]) == ('a "b",\nc', 3, '["é"]')
    assert (rows[2]["id"], rows[2]["error"], rows[2]["count"]) == ("r2", "truncated", None)
    huge = parquet.read_table(
        run(tmp_path / "b", "out.parquet", *RESULTS, good({**DATA, "count": 10**30})).out
    )
    assert huge["count"].to_pylist() == ["3", None, None, str(10**30)]


@pytest.mark.parametrize("name", ["out.csv", "out.sqlite"])
def test_a_schema_without_fixed_fields_is_one_column_of_json(name: str, tmp_path: Path) -> None:
    job = run(tmp_path, name, good([1, {"a": None}]), schema={"type": "array"})
    if name == "out.csv":
        (row,) = csv.DictReader(io.StringIO(job.out.read_text(), newline=""))
        assert row["data"] == '[1,{"a":null}]'
    else:
        base = sqlite3.connect(job.out)
        assert base.execute("SELECT data FROM records").fetchone() == ('[1,{"a":null}]',)
        base.close()


def test_columns_that_sqlite_would_take_for_one(tmp_path: Path) -> None:
    names = ["n", "Name", "name", 'quo"te', "ID", "data.id", "id"]
    schema = {
        "type": "object",
        "properties": {n: {"type": "string"} for n in names},
        "additionalProperties": False,
    }
    job = run(tmp_path, "out.sqlite", good({name: name for name in names}), schema=schema)
    base = sqlite3.connect(job.out)
    row = base.execute("SELECT * FROM records").fetchone()
    base.close()
    assert row[:9] == (1, "r0", *names)


def test_a_value_of_null_is_no_failure(tmp_path: Path) -> None:
    job = run(tmp_path, "out.jsonl", good(None), schema={"type": "null"})
    assert json.loads(job.out.read_text())["data"] is None and "error" not in job.out.read_text()


def test_half_of_a_surrogate_pair_is_an_error_record(tmp_path: Path) -> None:
    job = run(tmp_path, "out.jsonl", good({**DATA, "mixed": "\ud800"}), good(DATA))
    first, second = map(json.loads, job.out.read_text().splitlines())
    assert first["error"]["code"] == "invalid" and second["data"] == DATA


@pytest.mark.parametrize(
    ("kinds", "kind"),
    [
        ("integer", "integer"),
        (["null", "integer"], "integer"),
        (["number", "integer"], "number"),
        (["string", "integer"], "text"),
        ("object", "text"),
        ([], "text"),
    ],
)
def test_kinds_of_columns(kinds: Any, kind: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": kinds}}, "additionalProperties": False}
    assert dict(Columns(schema).columns)["a"] == kind
