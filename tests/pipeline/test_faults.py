"""Power loss, a full disk, Ctrl-C and a failing model, at every point: nothing lost, nothing twice, the same bytes."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import InputError
from edgekit.pipeline import Job, Watcher, extract_files
from edgekit.pipeline.state import state_path
from tests.conftest import ROOT
from tests.pipeline.stand_ins import (
    FORMATS,
    ChainModel,
    Crash,
    FullDisk,
    PowerLoss,
    bundle,
    given,
    job_in,
    write_input,
)

RECORDS = 200


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes, int]]:
    """Per format, output and review file of a run that nothing interrupted, and the disk's calls it took."""
    found = {}
    for name in FORMATS:
        folder = tmp_path_factory.mktemp(name)
        job = prepared(folder, name)
        disk = PowerLoss(at=0, seed=0)
        extract_files(job, load=given(ChainModel()), disk=disk)
        found[name] = (*outputs(job), disk.calls)
    return found


def prepared(folder: Path, name: str) -> Job:
    bundle(folder)
    write_input(folder / "in.jsonl", RECORDS)
    return job_in(folder, f"out.{name}")


def outputs(job: Job) -> tuple[bytes, bytes]:
    assert job.review is not None
    return job.out.read_bytes(), job.review.read_bytes()


def leftovers(job: Job) -> set[str]:
    """Files beside the output, without those that belong there."""
    mine = {"in.jsonl", "model.gguf", job.out.name, "doubts", state_path(job.out).name}
    return {path.name for path in job.out.parent.iterdir()} - mine


@pytest.mark.parametrize("name", FORMATS)
def test_the_power_goes_at_50_points_of_each_format(
    name: str, tmp_path: Path, whole: dict[str, tuple[bytes, bytes, int]]
) -> None:
    """200 crashes over the formats, each resumed; half of them crash once more while they resume."""
    *expected, calls = whole[name]
    points = random.Random(name).sample(range(1, calls + 1), 50)
    for number, point in enumerate(points):
        folder = tmp_path / str(number)
        folder.mkdir()
        job = prepared(folder, name)
        with pytest.raises(Crash):
            extract_files(job, load=given(ChainModel()), disk=PowerLoss(point, seed=point))
        if number % 2:
            try:
                extract_files(job, load=given(ChainModel()), disk=PowerLoss(1 + point % 40, seed=number))
            except Crash:
                pass
        summary = extract_files(job, load=given(ChainModel()))
        assert outputs(job) == tuple(expected), f"power lost at call {point}"
        assert (summary.records, summary.differ) == (RECORDS, 0)
        assert extract_files(job, load=never).already_finished
        assert leftovers(job) <= {f"{state_path(job.out).name}.new", f"{job.out.name}.edgekit-part.jsonl"}


def never() -> Any:
    raise AssertionError("a finished run loads no model")


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_at_every_call(
    name: str, tmp_path: Path, whole: dict[str, tuple[bytes, bytes, int]]
) -> None:
    first = FullDisk(at=10**9)
    (tmp_path / "whole").mkdir()
    extract_files(prepared(tmp_path / "whole", name), load=given(ChainModel()), disk=first)
    for point in range(1, first.calls + 1, 3):
        folder = tmp_path / str(point)
        folder.mkdir()
        job = prepared(folder, name)
        with pytest.raises(InputError, match="can't be written") as caught:
            extract_files(job, load=given(ChainModel()), disk=FullDisk(point))
        assert "run the same command again" in str(caught.value)
        assert extract_files(job, load=given(ChainModel())).records == RECORDS
        assert outputs(job) == whole[name][:2], f"full at call {point}"


class Interrupts(Watcher):
    """Ctrl-C at the first word."""

    def update(self, *_: object) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_keeps_all_that_was_computed(
    tmp_path: Path, whole: dict[str, tuple[bytes, bytes, int]]
) -> None:
    job = prepared(tmp_path, "jsonl")
    with pytest.raises(KeyboardInterrupt):
        extract_files(job, load=given(ChainModel()), watcher=Interrupts())
    assert job.out.read_bytes().count(b"\n") == 1
    assert extract_files(job, load=given(ChainModel())).new == RECORDS - 1
    assert outputs(job) == whole["jsonl"][:2]


class Fails(ChainModel):
    """Breaks down at its ``after``-th text, with an error of edgekit's or a bug."""

    def __init__(self, after: int, error: Exception) -> None:
        super().__init__()
        self._after, self._error = after, error

    def extract_many(self, *arguments: Any, **named: Any) -> Iterator[Any]:
        for n, found in enumerate(super().extract_many(*arguments, **named)):
            if n == self._after:
                raise self._error
            yield found


@pytest.mark.parametrize("error", [InputError("the model is closed"), ZeroDivisionError()])
@pytest.mark.parametrize("after", [0, 1, 16, 33, 199])
def test_a_model_that_fails_keeps_what_it_gave(
    after: int, error: Exception, tmp_path: Path, whole: dict[str, tuple[bytes, bytes, int]]
) -> None:
    job = prepared(tmp_path, "jsonl")
    with pytest.raises(type(error)):
        extract_files(job, load=given(Fails(after, error)))
    assert job.out.read_bytes().count(b"\n") == after
    assert extract_files(job, load=given(ChainModel())).new == RECORDS - after
    assert outputs(job) == whole["jsonl"][:2]


def test_a_model_that_skips_a_text_is_found_out(tmp_path: Path) -> None:
    class Skips(ChainModel):
        def extract_many(self, *arguments: Any, **named: Any) -> Iterator[Any]:
            for n, found in enumerate(super().extract_many(*arguments, **named)):
                if n == 50:
                    return
                yield found

    job = prepared(tmp_path, "jsonl")
    with pytest.raises(AssertionError, match="got no result"):
        extract_files(job, load=given(Skips()))


LIMITED = """
import resource, signal, sys
from pathlib import Path
from edgekit.errors import InputError
from edgekit.pipeline import extract_files
from tests.pipeline.stand_ins import ChainModel, given, job_in
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    extract_files(job_in(Path(sys.argv[1]), sys.argv[2]), load=given(ChainModel()))
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("room", [0, 700, 3000, 9000])
def test_a_system_that_refuses_bytes(
    name: str, room: int, tmp_path: Path, whole: dict[str, tuple[bytes, bytes, int]]
) -> None:
    """The system's own refusal, by a limit on file sizes, through SQLite and Arrow too."""
    job = prepared(tmp_path, name)
    command = [sys.executable, "-c", LIMITED, str(tmp_path), job.out.name, str(room)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "can't be written" in done.stdout
    assert not job.out.exists() or name in {"jsonl", "csv"}
    extract_files(job, load=given(ChainModel()))
    assert outputs(job) == whole[name][:2]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
