"""``edgekit review``: driven by lines, as by a pipe; every decision is on the disk before the next question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgekit.cli import group
from edgekit.cli.review import marked
from edgekit.errors import InputError
from edgekit.pipeline.disk import Disk
from edgekit.pipeline.review import check, open_labels, read_review, with_value
from edgekit.pipeline.rows import Doubt

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "people": {"type": ["string", "null"], "maxLength": 20},
        "n": {"type": "integer"},
        "where": {"type": ["object", "null"], "properties": {"city": {"type": "string"}}},
        "tags": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["people", "n"],
    "additionalProperties": False,
}


def doubt(name: str, text: str | None, data: Any, *doubtful: str, answer: str | None = None) -> Doubt:
    reasons = [f"{field}: 0.4, below 0.7" for field in doubtful] or ["truncated: cut off"]
    return Doubt(name, text, data, list(doubtful), reasons, {"people": 0.99, "n": 0.4}, answer, None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three records with a text, one without."""
    import msgspec

    doubts = [
        doubt("a", "Table for 2 adults at 7", {"people": "2 adults", "n": 7}, "n"),
        doubt("b", "danger \x1b[31m", None, answer='{"peo'),
        doubt("c", None, None),
        doubt("d", "third, 3", {"people": None, "n": 3}, "n", "people"),
    ]
    header = {"edgekit_review": 1, "bundle": "b", "schema": SCHEMA, "min_confidence": 0.7}
    path = tmp_path / "doubts.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in [header, *doubts]))
    return path


def review(file: Path, *lines: str, options: tuple[str, ...] = ()) -> Result:
    done = CliRunner().invoke(
        group, ["review", str(file), *options], input="".join(f"{line}\n" for line in lines)
    )
    assert done.exit_code == 0 or done.exception is not None, done.output
    return done


def labels(file: Path) -> list[tuple[str, Any]]:
    path = file.with_name("doubts.labelled.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(set(line) == {"id", "text", "expected"} for line in lines)
    return [(line["id"], line["expected"]) for line in lines]


def test_accept_edit_and_null(file: Path) -> None:
    done = review(file, "", "people=nobody", "n=5", "a", "n people", "n=8", "")
    assert labels(file) == [
        ("a", {"people": "2 adults", "n": 7}),
        ("b", {"people": "nobody", "n": 5, "where": None}),
        ("d", {"people": None, "n": 8}),
    ]
    assert "3 decided, 0 left" in done.stdout


def test_shows_what_is_doubtful_and_no_control_characters(file: Path) -> None:
    out = review(file, "s", "s", "s").stdout
    assert "1/3  a  (n: 0.4, below 0.7)" in out
    assert "\x1b" not in out and "danger \\x1b[31m" in out
    assert 'the model began: {"peo' in out
    assert "records without a text that could be read: 1" in out
    assert any(line.split() == ["?", "n", "7", "0.40"] for line in out.splitlines())
    assert any(line.split() == ["people", '"2', 'adults"', "0.99"] for line in out.splitlines())
    assert "0 decided, 3 left" in out


def test_stops_and_goes_on(file: Path) -> None:
    assert "1 decided, 2 left" in review(file, "", "q").stdout
    assert "0 decided, 2 left" in review(file).stdout  # the input ends: as q
    out = review(file, "s", "").stdout
    assert "1/2  b" in out and "1 decided, 1 left" in out
    assert [name for name, _ in labels(file)] == ["a", "d"]


def test_back_corrects_an_earlier_decision(file: Path) -> None:
    review(file, "", "b", "n=9", "", "q")
    assert labels(file) == [("a", {"people": "2 adults", "n": 9})]
    assert "this is the first one" in review(file, "b", "q").stdout
    review(file, "people=x", "", "q", options=("--all",))
    assert labels(file) == [("a", {"people": "x", "n": 9})]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["n=abc"], "no value of this field"),
        (["n=1.5"], "is not of type 'integer'"),
        (["n n"], "is not of type 'integer'"),
        (["people=" + "x" * 21], "is too long"),
        (["nothing=1"], "there is no field 'nothing'"),
        (["tags[0]=1"], "there is no field 'tags[0]'"),
        (["="], "no field"),
        (["?"], "FIELD=VALUE"),
        (["what"], "FIELD=VALUE"),
    ],
)
def test_what_does_not_fit_is_refused_and_asked_again(lines: list[str], said: str, file: Path) -> None:
    out = review(file, *lines, "", "q").stdout
    assert said in out
    assert labels(file) == [("a", {"people": "2 adults", "n": 7})]


def test_nothing_can_not_be_accepted(file: Path) -> None:
    out = review(file, "s", "", "people=x", "", "q").stdout
    assert "the model gave no values to keep" in out
    assert "the schema doesn't allow that in $.n" in out  # not decided yet
    assert labels(file) == []


def test_a_torn_line_is_repaired_and_foreign_ones_are_refused(file: Path) -> None:
    out = file.with_name("doubts.labelled.jsonl")
    review(file, "", "q")
    whole = out.read_bytes()
    out.write_bytes(whole + b'{"id": "d", "te')
    review(file, "q")
    assert out.read_bytes() == whole
    out.write_bytes(whole[:-1])
    review(file, "q")
    assert out.read_bytes() == whole
    out.write_bytes(b'{"what": 1}\n')
    with pytest.raises(InputError, match="line 1 is no labelled record"), open_labels(out):
        pass
    assert out.read_bytes() == b'{"what": 1}\n'


def test_what_is_no_review_file(tmp_path: Path, file: Path) -> None:
    for data in (b"", b"\n", b'{"id": "a"}\n', b"\xff\n"):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(InputError, match="not a review file"):
            read_review(tmp_path / "x")
    assert isinstance(review(file, options=("-o", str(file))).exception, InputError)
    text = file.read_text()
    file.write_text(text + "torn, still being written")
    assert len(read_review(file)[1]) == 4
    file.write_text(text + "not json\n")
    with pytest.raises(InputError, match="line 6 is no record"):
        read_review(file)


def test_a_hostile_schema_neither_hangs_nor_leads_out(file: Path) -> None:
    assert check("a" * 40 + "b", {"type": "string", "pattern": "^(a+)+$"})
    nested = {"type": "object", "patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
    assert check({"a" * 40 + "b": 1}, nested)
    lines = file.read_text().splitlines()
    header = {**json.loads(lines[0]), "schema": {"$ref": "http://example.com/x"}}
    file.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    assert "leads outside itself" in str(review(file, "").exception)


def test_a_disk_that_fails_loses_no_earlier_decision(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    review(file, "", "q")
    out = file.with_name("doubts.labelled.jsonl")
    whole = out.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Disk, "write", refuse)
    done = review(file, "s", "n=1", "", "q")
    assert isinstance(done.exception, InputError) and "can't be written" in str(done.exception)
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("people", "2 adults", {"people": "2 adults"}),
        ("people", '"null"', {"people": "null"}),
        ("people", None, {"people": None}),
        ("n", "12", {"n": 12}),
        ("where", '{"city": "Bern"}', {"where": {"city": "Bern"}}),
        ("tags", "[1, 2]", {"tags": [1, 2]}),
        ("tags[0]", "5", {"tags": [5]}),
        ("tags[1]", "5", {"tags": [1, 5]}),
        ("place.city", "Bern", None),
        ("where.city", "Bern", None),
        ("tags[3]", "1", None),
        ("tags[1][0]", "1", None),
        ("people.x", "1", None),
    ],
)
def test_values_by_their_place(field: str, text: str | None, expected: dict[str, Any] | None) -> None:
    data: dict[str, Any] = {"people": "x", "n": 1, "tags": [1]}
    if expected is None:
        with pytest.raises(InputError):
            with_value(data, field, text, SCHEMA)
        return
    assert with_value(data, field, text, SCHEMA) == {**data, **expected}
    assert data == {"people": "x", "n": 1, "tags": [1]}
    inner = {"where": {"city": "Bern"}}
    assert with_value(inner, "where.city", "Rome", SCHEMA) == {"where": {"city": "Rome"}}


def test_values_are_highlighted_in_the_text() -> None:
    shown = marked(doubt("a", "Table for 2 at 2, Bern", None, "n"), {"people": "Bern", "n": 2, "x": None})
    spans = {(shown.plain[span.start : span.end], span.start, str(span.style)) for span in shown.spans}
    assert spans == {("2", 10, "bold red"), ("2", 15, "bold red"), ("Bern", 18, "bold green")}
