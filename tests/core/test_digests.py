"""Digests that are remembered, and when they aren't believed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from edgekit import digests
from edgekit.digests import Digests


def old(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this test count as old at once."""
    monkeypatch.setattr(digests, "SETTLED", -1.0)


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = old(tmp_path / "a", b"one")
    first = Digests(tmp_path)
    assert first.of(file) == sha(b"one")
    first.save()

    def never(path: Path) -> str:
        raise AssertionError(path)

    monkeypatch.setattr(digests, "sha256", never)
    assert Digests(tmp_path).of(file) == sha(b"one")
    link = tmp_path / "link"
    link.symlink_to(file)
    assert Digests(tmp_path).of(link) == sha(b"one")


def test_what_was_touched_is_hashed_again(tmp_path: Path) -> None:
    file = old(tmp_path / "a", b"one")
    known = Digests(tmp_path)
    known.of(file)
    about = file.stat()
    file.write_bytes(b"two")
    os.utime(
        file, ns=(about.st_atime_ns, about.st_mtime_ns)
    )  # its contents' time put back; its inode's isn't
    assert file.stat().st_size == about.st_size and known.of(file) == sha(b"two")
    other = old(tmp_path / "b", b"xyz")
    other.replace(file)
    assert known.of(file) == sha(b"xyz")


def test_a_file_of_this_moment_isnt_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "SETTLED", 3600.0)
    file = old(tmp_path / "a", b"one")
    known = Digests(tmp_path)
    assert known.of(file) == sha(b"one")
    known.save()
    assert not (tmp_path / digests.FILE).exists()
    known.learn(file, sha(b"one"))  # what this process wrote, it knows
    known.save()
    assert (tmp_path / digests.FILE).exists()


@pytest.mark.parametrize("found", [b"", b"{", b"[]", b'{"1:2": [1, 2, 3, 4]}', b'{"1:2": []}'])
def test_a_garbled_memory_is_none(tmp_path: Path, found: bytes) -> None:
    (tmp_path / digests.FILE).write_bytes(found)
    file = old(tmp_path / "a", b"one")
    known = Digests(tmp_path)
    assert known.of(file) == sha(b"one")
    known.save()
    assert Digests(tmp_path).of(file) == sha(b"one")


def test_a_folder_that_cant_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    known = Digests(tmp_path / "file" / "below")
    assert known.of(old(tmp_path / "a", b"one")) == sha(b"one")
    known.save()


def test_the_oldest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "LIMIT", 2)
    known = Digests(tmp_path)
    for name in "abc":
        known.of(old(tmp_path / name, name.encode()))
    known.save()
    assert (tmp_path / digests.FILE).read_text().count(":") == 2 * 1 + 2
