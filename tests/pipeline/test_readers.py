"""Every kind of input, sound and unsound: which record comes out, under which id, with which fault."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from edgekit.errors import InputError, RuntimeUnavailableError
from edgekit.pipeline.lines import Lines
from edgekit.pipeline.readers import Fields
from edgekit.pipeline.record import LIMIT
from edgekit.pipeline.sources import Inputs


def read(
    *names: Path | str, kind: str | None = None, stdin: bytes = b"", **fields: Any
) -> list[tuple[str, str]]:
    """(id, text) of each record, or (id, the fault's code in angle brackets)."""
    inputs = Inputs([str(name) for name in names], Fields(**fields), kind, io.BytesIO(stdin))
    return [(r.id, r.text if r.fault is None else f"<{r.fault.code}>") for r in inputs]


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"one", ["one"]),
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"\xef\xbb\xbfone\ntwo", ["one", "two"]),
        (b"one\n\n  \ntwo\n\n", ["one", "<empty>", "<empty>", "two", "<empty>"]),
        (b"a\0b\nfine", ["<encoding>", "fine"]),
        (b"\xff\xe9\nfine\n", ["<encoding>", "fine"]),
        ("Zoë 😀\n".encode(), ["Zoë 😀"]),
        (b"x" * (LIMIT + 1) + b"\nfine", ["<too_long>", "fine"]),
        (b"fine\n" + b"x" * (3 * LIMIT), ["fine", "<too_long>"]),
        (b"x" * LIMIT, ["x" * LIMIT]),
        (b"one\rtwo\n", ["one\rtwo"]),
    ],
)
def test_lines(data: bytes, expected: list[str], tmp_path: Path) -> None:
    if data[:2] == b"\xff\xe9":
        data = b"first\n" + data
        expected = ["first", *expected]
    found = read(put(tmp_path, "notes.txt", data))
    assert found == [(f"notes.txt:{n}", text) for n, text in enumerate(expected, 1)]


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be", "utf-32"])
def test_utf_16_and_32_are_named(codec: str, tmp_path: Path) -> None:
    bom = b"\xfe\xff" if codec == "utf-16-be" else b""
    with pytest.raises(InputError, match="UTF-16 or UTF-32") as caught:
        read(put(tmp_path, "a.txt", bom + "hello\n".encode(codec)))
    assert "iconv" in str(caught.value)


@examples(st.lists(st.binary(max_size=9).filter(lambda b: b"\n" not in b), max_size=20), st.integers(1, 7))
def test_lines_are_the_same_however_they_arrive(parts: list[bytes], size: int) -> None:
    data = b"first\n" + b"\n".join(parts)
    stream = io.BytesIO(data)
    found = list(Lines(lambda _: stream.read(size), "test"))
    expected = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    assert found == (expected[:-1] if data.endswith(b"\n") else expected)


JSON_CASES = [
    (b'{"text": "one"}', ("a.jsonl:2", "one")),
    (b'{"id": "x", "text": "one", "more": [1]}', ("x", "one")),
    (b'{"id": 7, "text": "one"}', ("7", "one")),
    (b'{"id": true, "text": "one"}', ("a.jsonl:2", "one")),
    (b'{"id": "", "text": "one"}', ("a.jsonl:2", "one")),
    (b'{"id": "x"}', ("x", "<field>")),
    (b'{"id": "x", "text": 5}', ("x", "<field>")),
    (b'{"id": "x", "text": null}', ("x", "<field>")),
    (b'{"id": "x", "text": ["a"]}', ("x", "<field>")),
    (b'{"id": "x", "text": ""}', ("x", "<empty>")),
    (b'{"id": "x", "text": " \\n"}', ("x", "<empty>")),
    (b'{"id": "x", "text": "a\\u0000b"}', ("x", "<encoding>")),
    (b'{"id": "x", "text": "\\ud800"}', ("a.jsonl:2", "<encoding>")),
    (b'{"text": "\xff"}', ("a.jsonl:2", "<encoding>")),
    (b'{"text": "one"', ("a.jsonl:2", "<malformed>")),
    (b'["text"]', ("a.jsonl:2", "<malformed>")),
    (b'{"text": "one"} {"text": "two"}', ("a.jsonl:2", "<malformed>")),
    (b'{"text": "a", "deep": ' + b"[" * 100_000 + b"}", ("a.jsonl:2", "<malformed>")),
    (b'{"text": "' + b"x" * LIMIT + b'"}', ("a.jsonl:2", "<too_long>")),
]


@pytest.mark.parametrize(("line", "expected"), JSON_CASES)
def test_jsonl(line: bytes, expected: tuple[str, str], tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", b'{"id": "first", "text": "1"}\n' + line + b'\n \n{"text": "last"}')
    assert read(path) == [("first", "1"), expected, ("a.jsonl:4", "last")]


def test_fields_by_other_names(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", b'{"nr": 5, "body text": "one"}\n{"body text": "two"}\n')
    found = read(path, text="body text", id="nr")
    assert found == [("5", "one"), ("a.jsonl:2", "<field>")]


def test_a_wrong_field_name_is_no_thousand_bad_records(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", b'{"id": 1, "body": "x"}\n' * 1000)
    with pytest.raises(InputError, match="no record has a text in the field 'text'") as caught:
        read(path)
    assert "id, body" in str(caught.value) and "--text-field" in str(caught.value)
    path = put(tmp_path, "b.jsonl", b'{"body": "x"}\n' * 19 + b'{"text": "y"}\n' + b'{"body": "x"}\n' * 30)
    assert [text for _, text in read(path)] == ["<field>"] * 19 + ["y"] + ["<field>"] * 30


CSV_CASES = [
    (b"id,text\n1,one\n2,two", [("1", "one"), ("2", "two")]),
    (b'id,text\r\n1,"a, ""b"""\r\n', [("1", 'a, "b"')]),
    (b'text\n"one\ntwo"\nthree\n', [("a.csv:2", "one\ntwo"), ("a.csv:4", "three")]),
    (b'\xef\xbb\xbftext,id\none,\n\n"",x\n', [("a.csv:2", "one"), ("x", "<empty>")]),
    (b"id,text\n1,one, two\n2\n3,x\n", [("a.csv:2", "<malformed>"), ("a.csv:3", "<malformed>"), ("3", "x")]),
    (b'id,text\n1,"a"b\n2,x\n', [("a.csv:2", "<malformed>"), ("2", "x")]),
    (b'id,text\n1,"open\n2,x\n', [("a.csv:2", "<malformed>")]),
    (b"id,text\n1,\xff\n2,x\n", [("a.csv:2", "<encoding>"), ("2", "x")]),
    (b"id,text\n1,a\0b\n2,x\n", [("1", "<encoding>"), ("2", "x")]),
    (b"id,text\n1," + b"y" * (LIMIT + 9) + b"\n2,x\n", [("a.csv:2", "<too_long>"), ("2", "x")]),
    (b"", []),
    (b"id,text\n", []),
]


@pytest.mark.parametrize(("data", "expected"), CSV_CASES)
def test_csv(data: bytes, expected: list[tuple[str, str]], tmp_path: Path) -> None:
    assert read(put(tmp_path, "a.csv", data)) == expected


def test_a_quote_that_is_never_closed_says_how_far_it_reached(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", b'text\n"open\nx\ny\n')
    (record,) = Inputs([str(path)], Fields())
    assert record.fault is not None and "up to line 4" in record.fault.message


@pytest.mark.parametrize(
    ("header", "fields"), [(b"id;text", {}), (b"a,text,text", {}), (b"a,text", {"id": "nr"}), (b"\xff,b", {})]
)
def test_a_header_without_the_columns(header: bytes, fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the header has") as caught:
        read(put(tmp_path, "a.csv", header + b"\n1;x\n"), **fields)
    assert "--delimiter" in str(caught.value)


def test_other_separators(tmp_path: Path) -> None:
    assert read(put(tmp_path, "a.csv", b"id;text\n1;a,b\n"), delimiter=";") == [("1", "a,b")]
    assert read(put(tmp_path, "a.tsv", b'id\ttext\n1\t"a", b\n')) == [("1", '"a", b')]


@examples(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9), max_size=9))
def test_what_the_csv_module_writes_is_read_again(texts: list[str]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerows([["id", "text"], *([str(n), text] for n, text in enumerate(texts))])
    found = read("-", kind="csv", stdin=file.getvalue().encode())
    # Line ends within a field come out as LF: CRLF is a line's end, wherever it stands.
    expected = [text.replace("\r\n", "\n") if text.strip() else "<empty>" for text in texts]
    assert [text for _, text in found] == expected


def test_a_folder_of_texts(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    for name, data in {
        "b.txt": b"two\n", "a/z.txt": b"\xef\xbb\xbfone\r\n", "c.txt": b"", "d.txt": b"\xff", "e.txt": b"two\nlines\n",
        "f.md": b"no", ".hidden.txt": b"no", "g.txt": b"x" * (LIMIT + 1),
    }.items():  # fmt: skip
        put(folder, name, data)
    assert read(folder) == [
        ("notes/a/z.txt", "one"),
        ("notes/b.txt", "two"),
        ("notes/c.txt", "<empty>"),
        ("notes/d.txt", "<encoding>"),
        ("notes/e.txt", "two\nlines"),
        ("notes/g.txt", "<too_long>"),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.txt file"):
        read(tmp_path / "empty")


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    texts = arrow.array(["one", None, "", "x\0"], arrow.string())
    parquet.write_table(arrow.table({"id": [1, 2, None, 4], "text": texts, "n": [1, 2, 3, 4]}), path)
    assert read(path) == [("1", "one"), ("2", "<field>"), ("a.parquet:3", "<empty>"), ("4", "<encoding>")]
    ids = arrow.table({"nr": ["x", None], "text": ["one", "two"], "long": ["y", "x" * (LIMIT + 1)]})
    parquet.write_table(ids, tmp_path / "ids.parquet")
    assert read(tmp_path / "ids.parquet", id="nr") == [("x", "one"), ("ids.parquet:2", "<field>")]
    assert read(tmp_path / "ids.parquet", text="long")[1] == ("ids.parquet:2", "<too_long>")
    for text, name in (("body", None), ("text", "body")):
        with pytest.raises(InputError, match="no column 'body'"):
            read(path, text=text, id=name)
    with pytest.raises(InputError, match="is no text"):
        read(path, text="n")
    with pytest.raises(InputError, match="not readable as Parquet"):
        read(put(tmp_path, "b.parquet", b"PAR1 or not"))


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RuntimeUnavailableError) as caught:
        read(put(tmp_path, "a.parquet", b""))
    assert caught.value.next_step == "pip install 'edgekit[parquet]'"


def test_several_inputs_and_their_names(tmp_path: Path) -> None:
    one, two = put(tmp_path, "x/a.txt", b"1\n"), put(tmp_path, "y/a.txt", b"2\n")
    three = put(tmp_path, "b.csv", b"text\n3\n")
    assert read(one, two, three, "-", stdin=b"4\n5") == [
        (f"{one}:1", "1"),
        (f"{two}:1", "2"),
        ("b.csv:2", "3"),
        ("stdin:1", "4"),
        ("stdin:2", "5"),
    ]
    with pytest.raises(InputError, match="once only"):
        read("-", "-")


def missing(folder: Path) -> Path:
    return folder / "nothing"


def device(folder: Path) -> Path:
    return Path("/dev/zero")


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def unknown(folder: Path) -> Path:
    return put(folder, "a.xlsx", b"PK")


@pytest.mark.parametrize("make", [missing, device, pipe, unknown])
def test_what_is_no_input(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read(make(tmp_path))


def test_a_disk_that_breaks_while_it_is_read() -> None:
    def fail(_: int) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(InputError, match="can't be read after line 0") as caught:
        list(Lines(fail, "usb/a.txt"))
    assert "run the same command again" in str(caught.value)


def test_the_share_that_is_read_grows_to_one(tmp_path: Path) -> None:
    names = [
        str(put(tmp_path, "a.jsonl", b'{"text": "abc"}\n' * 100)),
        str(put(tmp_path, "b.csv", b"text\n" + b"abc\n" * 400)),
        str(put(tmp_path, "c.txt", b"abc\n" * 100)),
    ]
    inputs = Inputs(names, Fields())
    shares = [inputs.share for _ in inputs]
    assert all(share is not None for share in shares)
    assert shares == sorted(shares, key=float) and shares[-1] == pytest.approx(1.0)  # type: ignore[arg-type]
    sizes = [os.path.getsize(name) for name in names]
    assert shares[99] == pytest.approx(sizes[0] / sum(sizes))
    assert Inputs(["-"], Fields()).share is None
