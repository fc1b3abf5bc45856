"""kill -9 of real processes, at random points: after each resume nothing is lost, nothing twice, every byte the same."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipeline.stand_ins import FORMATS, bundle, job_in, write_input


def start(folder: Path, out: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.pipeline.driver", str(folder), out]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def finish(folder: Path, out: str) -> tuple[bytes, bytes]:
    with start(folder, out) as process:
        process.communicate()
    assert process.returncode == 0
    job = job_in(folder, out)
    assert job.review is not None
    return job.out.read_bytes(), job.review.read_bytes()


def kill_once(folder: Path, out: str, after: int) -> bool:
    """Kill a run once it has asked for ``after`` bytes; whether it was still running."""
    with start(folder, out) as process:
        assert process.stdout is not None
        process.stdout.read(after)
        process.kill()
    return process.returncode < 0


def prepared(folder: Path, records: int) -> Path:
    folder.mkdir()
    bundle(folder)
    write_input(folder / "in.jsonl", records)
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_killed_three_times(name: str, tmp_path: Path) -> None:
    expected = finish(prepared(tmp_path / "whole", 60), f"out.{name}")
    folder = prepared(tmp_path / "killed", 60)
    kills = [kill_once(folder, f"out.{name}", after) for after in (1, 23, 41)]
    assert any(kills)
    assert finish(folder, f"out.{name}") == expected


@pytest.mark.slow
def test_killed_at_200_points_of_1000_records(tmp_path: Path) -> None:
    """50 kills for each of the four formats, up to 25 of them in one run."""
    chance = random.Random(4)
    for name in FORMATS:
        expected = finish(prepared(tmp_path / f"whole-{name}", 1000), f"out.{name}")
        killed = runs = 0
        while killed < 50:
            runs += 1
            folder = prepared(tmp_path / f"{name}-{runs}", 1000)
            for _ in range(25):
                if not kill_once(folder, f"out.{name}", chance.randint(1, 300)):
                    break  # it was finished
                killed += 1
            assert finish(folder, f"out.{name}") == expected
