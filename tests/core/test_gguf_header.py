"""GGUF headers: read as gguf reads them, and refused before any library could choke on them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.gguf_header import GgufArray, read_header


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str = "w", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", n) for n in dims)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


def file(path: Path, pairs: list[bytes], infos: list[bytes], data: int = 4096, **changes: Any) -> Path:
    counts = struct.pack(
        "<IQQ",
        changes.get("version", 3),
        changes.get("tensors", len(infos)),
        changes.get("keys", len(pairs)),
    )
    path.write_bytes(b"GGUF" + counts + b"".join(pairs) + b"".join(infos) + bytes(data))
    return path


def test_reads_what_gguf_reads(base_gguf: Path) -> None:
    header, reader = read_header(base_gguf), gguf.GGUFReader(base_gguf)
    assert [t.name for t in header.tensors] == [t.name for t in reader.tensors]
    for ours, theirs in zip(header.tensors, reader.tensors, strict=True):
        assert ours.offset == theirs.data_offset and ours.nbytes == theirs.n_bytes
        assert ours.kind == theirs.tensor_type.name and list(ours.dimensions) == list(theirs.shape)
    for name, value in header.keys.items():
        expected = reader.fields[name].contents()
        if isinstance(value, GgufArray):
            shown = 16 if isinstance(expected[0], str) else 1024
            assert value.length == len(expected) and value.first == expected[:shown]
        else:
            assert value == expected


BIG = 1 << 60


@pytest.mark.parametrize(
    ("keys", "tensors", "changes", "message"),
    [
        ([], [], {"version": 1}, "version"),
        ([], [], {"version": 9}, "version"),
        ([], [], {"tensors": BIG}, "too many"),
        ([], [], {"keys": BIG}, "too many"),
        ([], [], {"keys": 50}, "appears twice"),
        ([key("a", 99, b"")], [], {}, "unknown type"),
        ([key("a", 4, bytes(4)), key("a", 4, bytes(4))], [], {}, "twice"),
        ([key("a", 8, struct.pack("<Q", BIG))], [], {}, "too long"),
        ([key("a", 9, struct.pack("<IQ", 4, BIG))], [], {}, "ends too soon"),
        ([key("a", 9, struct.pack("<IQ", 8, BIG))], [], {}, "impossible length"),
        ([key("a", 9, struct.pack("<IQ", 9, 1))], [], {}, "unknown type"),
        ([key("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") * 2)], [], {}, "same text"),
        ([key("general.alignment", 4, bytes(4))], [], {}, "alignment"),
        ([], [tensor(dims=())], {}, "unsound shape"),
        ([], [tensor(dims=(0,))], {}, "unsound shape"),
        ([], [tensor(dims=(BIG, BIG))], {}, "unsound shape"),
        ([], [tensor(dims=(33,), kind=8)], {}, "unsound shape"),
        ([], [tensor(kind=999)], {}, "unknown type"),
        ([], [tensor(offset=BIG)], {}, "outside the file"),
        ([], [tensor(dims=(2048,))], {"data": 64}, "outside the file"),
        ([], [tensor("a"), tensor("b", offset=64)], {}, "overlaps"),
        ([], [tensor("a"), tensor("a", offset=128)], {}, "twice"),
    ],
)
def test_unsound_headers(
    tmp_path: Path, keys: list[bytes], tensors: list[bytes], changes: Any, message: str
) -> None:
    path = file(tmp_path / "x.gguf", keys, tensors, **changes)
    with pytest.raises(InputError, match=message) as caught:
        read_header(path)
    assert caught.value.path == str(path)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGU", b"PK\x03\x04" * 20, b"GGUF" + b"\xff" * 45])
def test_things_that_are_no_gguf(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(InputError):
        read_header(tmp_path / "x.gguf")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        read_header(tmp_path / "x")
    with pytest.raises(InputError, match="is a folder"):
        read_header(tmp_path)


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 2000), value=st.integers(0, 255), cut=st.booleans())
def test_garbled_headers_are_errors_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, cut: bool
) -> None:
    keys = [
        key("general.architecture", 8, text("llama")),
        key("n", 9, struct.pack("<IQ", 8, 3) + text("ab") * 3),
    ]
    path = file(
        tmp_path_factory.mktemp("g") / "x.gguf", keys, [tensor("a"), tensor("b", offset=128)], data=512
    )
    blob = bytearray(path.read_bytes())
    at = position % len(blob)
    path.write_bytes(blob[:at] if cut else blob[:at] + bytes([value]) + blob[at + 1 :])
    try:
        read_header(path)
    except InputError as error:
        assert str(path) in str(error)
