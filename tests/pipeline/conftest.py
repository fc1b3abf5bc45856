"""The job that the tests of resuming begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.pipeline import Job
from tests.pipeline.runs import stopped
from tests.pipeline.stand_ins import bundle, job_in, write_input


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """200 records, of which 100 are done."""
    bundle(tmp_path)
    write_input(tmp_path / "in.jsonl", 200)
    made = job_in(tmp_path)
    stopped(made, 100)
    return made
