"""Counts of a run, and who is told of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Tally:
    """How far a run is, all records of the output counted."""

    done: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    reviewed: int = 0
    tokens: int = 0

    @property
    def failed(self) -> int:
        """Records that are errors."""
        return sum(self.errors.values())


@dataclass(frozen=True)
class Summary:
    """What came of a run. Counts are of the whole output; ``new`` and ``seconds`` of this run alone."""

    out: Path
    records: int
    new: int
    errors: dict[str, int]
    review: int
    tokens: int
    """That the model wrote, over all records."""
    seconds: float
    calibrated: bool
    """Whether the confidences were fitted to labelled data; otherwise they only rank."""
    differ: int
    """Records that were computed again after an interruption and came out differently; what was written stays."""
    duplicate_ids: int
    first_duplicate: str | None
    notes: tuple[str, ...]
    already_finished: bool

    @property
    def per_second(self) -> float:
        """New records a second."""
        return self.new / self.seconds if self.seconds else 0.0


class Watcher:
    """Told how a run goes; the command line draws it, the default is silent."""

    def update(self, tally: Tally, share: float | None) -> None:
        """About ten times a second; ``share`` of the input is read, None where that can't be known."""

    def stage(self, text: str) -> None:
        """What is done now, where it may take a while."""
