"""A folder appears whole or not at all, whatever interrupts its writing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit import atomic
from edgekit.atomic import atomic_file, atomic_folder
from edgekit.errors import InputError


def contents(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_appears_on_success_only(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "bundle"
    with atomic_folder(final) as temporary:
        (temporary / "a").mkdir()
        (temporary / "a" / "x").write_text("1")
        assert not final.exists()
    assert contents(final.parent) == {"bundle/a/x": "1"}


def test_an_error_leaves_nothing_and_keeps_what_was(tmp_path: Path) -> None:
    final = tmp_path / "bundle"
    final.mkdir()
    (final / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(final, force=True) as temporary:
        (temporary / "new").write_text("half")
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"bundle/old": "old"}


def test_refuses_to_overwrite_without_force(tmp_path: Path) -> None:
    final = tmp_path / "bundle"
    final.mkdir()
    with pytest.raises(InputError, match="exists already") as caught, atomic_folder(final):
        pass
    assert "--force" in str(caught.value)


def test_force_replaces_a_folder_a_file_or_a_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    final = tmp_path / "bundle"
    final.symlink_to(elsewhere)
    for _ in range(2):
        with atomic_folder(final, force=True) as temporary:
            (temporary / "new").write_text("new")
        assert contents(final) == {"new": "new"} and not final.is_symlink()
    assert contents(elsewhere) == {"kept": "kept"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "elsewhere"]


KILLED = """
import os, signal, sys
from pathlib import Path
from edgekit.atomic import atomic_file, atomic_folder
with atomic_folder(Path(sys.argv[1]), force=True) as temporary:
    (temporary / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_leaves_the_old_bundle_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    final = tmp_path / "bundle"
    with atomic_folder(final) as temporary:
        (temporary / "old").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(final)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert contents(final) == {"old": "old"}
    assert len(list(tmp_path.glob(".bundle.*.partial"))) == 1
    with atomic_folder(final, force=True) as temporary:
        (temporary / "new").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    assert contents(final) == {"new": "new"}


def test_a_replace_that_was_killed_between_two_renames_is_undone(tmp_path: Path) -> None:
    (tmp_path / ".bundle.999999999.old").mkdir()
    (tmp_path / ".bundle.999999999.old" / "old").write_text("old")
    with pytest.raises(InputError, match="exists already"), atomic_folder(tmp_path / "bundle"):
        pass
    assert contents(tmp_path) == {"bundle/old": "old"}


WRITES = """
import sys
from pathlib import Path
from edgekit.atomic import atomic_file, atomic_folder
with atomic_folder(Path(sys.argv[1])) as temporary:
    (temporary / "x").write_text("other")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_is_still_writing_is_left_alone(tmp_path: Path) -> None:
    final = tmp_path / "bundle"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", WRITES, str(final)], text=True, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "ready\n"
        with atomic_folder(final) as mine:
            (mine / "x").write_text("mine")
        assert len(list(tmp_path.glob(".bundle.*.partial"))) == 1
        other.stdin.close()
        assert other.wait() == 0
    assert contents(final) == {"x": "other"}  # it was started first and allowed to; nothing half-written


def test_leftovers_of_other_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".a-q8_0.x.999999999.old").mkdir()
    with atomic_folder(tmp_path / "a-q8_0") as temporary:
        (temporary / "x").write_text("1")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a-q8_0.x.999999999.old", "a-q8_0"]


@pytest.mark.parametrize("exchange", [True, False])
def test_replacing_with_and_without_an_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "bundle", force=True) as temporary:
            (temporary / "x").write_text(text)
    assert contents(tmp_path) == {"bundle/x": "two"}


def test_a_disk_that_refuses_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="can't write here"), atomic_folder(tmp_path / "bundle") as temporary:
        (temporary / "x").write_text("1")
        monkeypatch.setattr(atomic, "sync_file", refuse)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't write here"), atomic_folder(tmp_path / "file" / "bundle"):
        pass


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "new" / "a.gguf"
    with pytest.raises(KeyboardInterrupt), atomic_file(final) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(final.parent.iterdir()) == []
    with atomic_file(final) as temporary:
        temporary.write_text("whole")
        assert not final.exists()
    with pytest.raises(InputError, match="exists already"), atomic_file(final):
        raise AssertionError("not reached")
    with pytest.raises(InputError, match="exists already"), atomic_file(final.parent, force=True):
        raise AssertionError("not reached")
    assert [(path.name, path.read_text()) for path in final.parent.iterdir()] == [("a.gguf", "whole")]
