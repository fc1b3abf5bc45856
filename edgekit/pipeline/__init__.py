"""Extraction from files: many records in, an output that survives any interruption, and a list of doubtful ones."""

from __future__ import annotations

from edgekit.pipeline.job import Interval, Job
from edgekit.pipeline.run import extract_files
from edgekit.pipeline.tally import Summary, Watcher

__all__ = ["Interval", "Job", "Summary", "Watcher", "extract_files"]
