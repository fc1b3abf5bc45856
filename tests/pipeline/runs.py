"""Runs that are stopped, and gone on with."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgekit.pipeline import Job, Summary, extract_files
from tests.pipeline.stand_ins import ChainModel, given


class Stops(ChainModel):
    """Ctrl-C after so many records."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def extract_many(self, *arguments: Any, **named: Any) -> Any:
        for n, found in enumerate(super().extract_many(*arguments, **named)):
            if n == self._count:
                raise KeyboardInterrupt
            yield found


def stopped(job: Job, count: int, **more: Any) -> None:
    """A run that is interrupted after ``count`` records."""
    with pytest.raises(KeyboardInterrupt):
        extract_files(job, load=given(Stops(count)), **more)


def resume(job: Job, model: ChainModel | None = None, **changes: Any) -> Summary:
    """Run a job, or go on with it."""
    return extract_files(dataclasses.replace(job, **changes), load=given(model or ChainModel()))
