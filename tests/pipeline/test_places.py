"""Files that are in the way, that changed, that another run holds; and when a run stops by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgekit.errors import BundleError, InputError
from edgekit.pipeline import Interval, Job, extract_files
from edgekit.pipeline.disk import locked
from edgekit.pipeline.state import read_state, state_path
from tests.conftest import ROOT
from tests.pipeline.runs import resume
from tests.pipeline.stand_ins import bundle, job_in, write_input


def test_an_output_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    bundle(tmp_path)
    write_input(tmp_path / "in.jsonl", 10)
    job = job_in(tmp_path)
    job.out.write_text("mine")
    with pytest.raises(InputError, match="wasn't begun by this command"):
        resume(job)
    assert job.out.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["doubts", "in.jsonl", "model.gguf", "out.jsonl"]
    assert resume(job, restart=True).records == 10


def test_an_output_that_was_edited_is_refused(job: Job) -> None:
    whole = job.out.read_bytes()
    for changed in (whole[:-1], whole[:-10] + b"edited....", b""):
        job.out.write_bytes(changed)
        with pytest.raises(InputError, match="was changed since it was written"):
            resume(job)
        assert job.out.read_bytes() == changed
    job.out.unlink()
    with pytest.raises(InputError, match="is gone"):
        resume(job)
    job.out.write_bytes(whole + b"torn by a crash")
    assert resume(job).records == 200


def test_a_damaged_state_never_starts_over_by_itself(job: Job) -> None:
    path = state_path(job.out)
    whole = path.read_bytes()
    for damage in (b"", whole[:50], b"\0" * 99, b'{"version": 2}', b"[1]"):
        path.write_bytes(damage)
        with pytest.raises(InputError, match="state is damaged|another version") as caught:
            resume(job)
        assert "--restart" in str(caught.value)
    path.write_bytes(whole)
    assert resume(job).records == 200


def test_the_state_tells_how_far_it_is(job: Job) -> None:
    state = read_state(job.out)
    assert state is not None and (state.done, state.finished) == (100, False)
    assert state.out.bytes == job.out.stat().st_size
    assert [mark.name for mark in state.inputs] == [job.inputs[0]]
    assert msgspec.json.decode(state_path(job.out).read_bytes())["settings"]["--text-field"] == "text"


HOLDS = """
import sys
from pathlib import Path
from edgekit.pipeline.disk import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("which", ["out", "review"])
def test_two_runs_at_once_are_refused(which: str, job: Job) -> None:
    place = getattr(job, which)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(place)], text=True, cwd=ROOT, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another run is writing this file"):
            resume(job)
        with pytest.raises(InputError, match="another run"):
            resume(job, restart=True)
        other.kill()
        other.wait()
    assert resume(job).records == 200  # a lock dies with its process
    with locked(place):
        pass
    assert not list(place.parent.glob(".*lock"))


def test_max_errors_stops_and_a_resume_goes_on(tmp_path: Path) -> None:
    bundle(tmp_path)
    write_input(tmp_path / "in.jsonl", 200)
    job = job_in(tmp_path)
    with pytest.raises(InputError, match="failed records: 6, more than --max-errors 5") as caught:
        resume(job, max_errors=5)
    assert "--max-errors" in str(caught.value.next_step)
    written = job.out.read_bytes()
    assert written.count(b'"error"') == 6
    with pytest.raises(InputError, match="failed records: 6"):
        resume(job, max_errors=5)
    assert job.out.read_bytes() == written
    summary = resume(job, max_errors=1000)
    assert summary.records == 200 and sum(summary.errors.values()) > 6


def test_places_that_can_not_be_written(tmp_path: Path) -> None:
    bundle(tmp_path)
    write_input(tmp_path / "in.jsonl", 10)
    job = job_in(tmp_path)
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "in.jsonl")
    for changes, message in (
        ({"out": tmp_path / "folder.jsonl"}, "not a name for a file"),
        ({"out": tmp_path / "in.jsonl"}, "overwritten by its own results"),
        ({"out": tmp_path / "link.jsonl"}, "overwritten by its own results"),
        ({"review": tmp_path / "in.jsonl"}, "overwritten by its own results"),
        ({"review": job.out}, "are one"),
        ({"out": Path("/dev/null"), "format": "csv"}, "no regular file"),
        ({"out": tmp_path / "in.jsonl" / "x.jsonl"}, "can't be written"),
        ({"out": tmp_path / "out.xlsx"}, "can't be told from its name"),
        ({"prompt": "no place"}, "no place for the text"),
        ({"prompt": None}, "there is no prompt"),
        ({"schema": None}, "there is no schema"),
        ({"bundle": tmp_path / "nothing"}, "not a bundle"),
    ):
        with pytest.raises((InputError, BundleError), match=message):
            resume(job, **changes)
    assert len(Path(job.inputs[0]).read_bytes().splitlines()) == 10


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "0s", "-2s", "nans", "1e9s", "2m"])
def test_intervals_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="no interval"):
        Interval.parse(text)


def test_intervals() -> None:
    assert Interval.parse("500") == Interval(records=500)
    assert Interval.parse("2.5s") == Interval(seconds=2.5)


def test_an_input_without_records(tmp_path: Path) -> None:
    bundle(tmp_path)
    (tmp_path / "in.jsonl").touch()
    for name in ("out.jsonl", "out.csv", "out.sqlite"):
        job = job_in(tmp_path, name, review=None)
        summary = extract_files(job)  # the model isn't loaded: there is none
        assert summary.records == 0 and job.out.exists()
        write_input(tmp_path / "in.jsonl", 5)
        assert resume(job).records == 5
        (tmp_path / "in.jsonl").write_bytes(b"")
