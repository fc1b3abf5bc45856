"""How many threads a runtime gets that nobody told."""

from __future__ import annotations

import os

import psutil


def default_threads() -> int:
    """Physical cores, but no more than the logical ones that this process may run on."""
    cores = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, min(cores, allowed))
