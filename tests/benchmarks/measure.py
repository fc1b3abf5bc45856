"""Run a command as a child process and say what it cost; this module stays small, its size is inherited."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in a unit of ru_maxrss."""
SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Cost:
    """One child: seconds from start to exit, and the largest peak RSS among it and its own children."""

    seconds: float
    peak: int


class ChildError(Exception):
    """A child failed; carries the end of what it printed."""


def run_child(command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> Cost:
    """Run ``command`` to its end, its output into ``log``; dirty pages of earlier runs are flushed before."""
    log.parent.mkdir(parents=True, exist_ok=True)
    os.sync()
    with log.open("wb") as output:
        began = time.perf_counter()
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment or {}),
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        said = log.read_text(errors="replace")[-3000:]
        raise ChildError(f"{' '.join(map(str, command))}\nended with {child.returncode}\n{said}")
    return Cost(seconds, usage.ru_maxrss * RSS_UNIT)


def own_peak() -> int:
    """The peak RSS of this process alone since it was started."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def steps_peak() -> int:
    """The largest peak RSS among the children that this process waited for; at least its own at their start."""
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * RSS_UNIT


def disk_bytes(*folders: Path) -> int:
    """Bytes allocated by all files below some folders, now."""
    total = 0
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                try:
                    total += os.lstat(os.path.join(parent, name)).st_blocks * 512
                except FileNotFoundError:  # removed since it was listed
                    continue
    return total


@dataclass
class DiskPeak:
    """The most bytes that folders held while they were watched, beyond what lay there before."""

    folders: Sequence[Path]
    before: int
    peak: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Sample until told to stop."""
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, disk_bytes(*self.folders) - self.before)

    def stop(self) -> None:
        """End the watch with a last look."""
        self._stop.set()
        self.peak = max(self.peak, disk_bytes(*self.folders) - self.before)


@contextmanager
def watching(*folders: Path) -> Iterator[DiskPeak]:
    """Sample the bytes below some folders during the block."""
    disk = DiskPeak(folders, disk_bytes(*folders))
    thread = threading.Thread(target=disk.watch)
    thread.start()
    try:
        yield disk
    finally:
        disk.stop()
        thread.join()


def read_through(folder: Path) -> None:
    """Warm-up: read a folder's files once, so that every side finds them in the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 22):
                    pass
