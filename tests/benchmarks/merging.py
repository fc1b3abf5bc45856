"""`edgekit merge` beside PEFT's load, merge and save of the same random model: whole processes, by turns.

    python -m tests.benchmarks.merging WORK [--size 1b] [--runs 3]

Prints each side's seconds and peak memory, and the ratios.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from statistics import median

from edgekit.profiles.cpu import usable_cores
from tests.benchmarks.common import Setting, python
from tests.benchmarks.measure import Cost, run_child


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--size", default="1b")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    setting = Setting(given.work.resolve(), given.size, given.runs, usable_cores())
    model, out, threads = setting.model(), setting.work / "merged", str(setting.threads)
    parts = map(str, [model / "base", "--adapter", model / "adapter", "-o", out, "--threads", threads])
    sides = {
        "edgekit merge": [sys.executable, "-m", "edgekit", "merge", *parts],
        "PEFT": python("peer", "merge", model / "base", model / "adapter", out, threads),
    }
    found: dict[str, list[Cost]] = {name: [] for name in sides}
    for _ in range(setting.runs):
        for name, command in sides.items():
            shutil.rmtree(out, ignore_errors=True)
            found[name].append(run_child(command, setting.log, setting.environment))
    shutil.rmtree(out)
    for name, costs in found.items():
        print(
            f"{name}: {median(one.seconds for one in costs):.1f} s, peak {max(one.peak for one in costs) / 1e6:,.0f} MB"
        )
    pairs = zip(*found.values(), strict=True)
    ratios = [one.seconds / other.seconds for one, other in pairs]
    print(f"time, ratio: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
