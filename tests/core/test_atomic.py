"""A folder appears whole or not at all, whatever interrupts its writing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.atomic import atomic_folder
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
from edgekit.atomic import atomic_folder
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


def test_a_run_that_is_still_writing_is_left_alone(tmp_path: Path) -> None:
    final = tmp_path / "bundle"
    with atomic_folder(final) as one:
        (one / "x").write_text("1")
        one = one.rename(tmp_path / ".bundle.1.partial")  # as another process would have named it
        with atomic_folder(final) as other:
            assert one.exists()
            (other / "x").write_text("2")
        one.rename(tmp_path / f".bundle.{os.getpid()}.partial")
        (tmp_path / "bundle" / "x").unlink()
        (tmp_path / "bundle").rmdir()
    assert contents(final) == {"x": "1"}


def test_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't write here"), atomic_folder(tmp_path / "file" / "bundle"):
        pass
