"""Memory of a build with an 8B model's shapes: sparse files of zeros.

Zeros quantize several times faster than weights do, so only the memory counts here, not the time.
"""

from __future__ import annotations

import shutil

from tests.benchmarks.common import Setting, build_with_edgekit, say
from tests.benchmarks.report import table

ROOM = 6 << 30
"""What the artifact needs, and some."""
MB = 1e6


def run(setting: Setting) -> str:
    """One build; one markdown section."""
    size = "8b" if setting.size == "1b" else setting.size
    free = shutil.disk_usage(setting.work).free
    if free < ROOM:
        raise SystemExit(
            f"the memory benchmark needs {ROOM / 1e9:.0f} GB on the disk, {free / 1e9:.0f} GB are free"
        )
    model = setting.model(size, zeros=True)
    try:
        say(f"building {size} shapes …")
        made = build_with_edgekit(setting, model, "Q4_K_M")
    finally:
        shutil.rmtree(model)
        shutil.rmtree(setting.work / "out-edgekit", ignore_errors=True)
    found = made.found
    rows = [
        ["peak RSS, main process, MB", f"{found['main_peak'] / MB:,.0f}", "< 1,000"],
        [
            "peak RSS, child step (golden probes map the whole artifact), MB",
            f"{found['step_peak'] / MB:,.0f}",
            "",
        ],
        ["artifact, MB", f"{found['size'] / MB:,.0f}", ""],
        ["temporary bytes on disk", f"{made.temporary:,}", "0"],
        ["wall time (of zeros), s", f"{made.cost.seconds:.0f}", ""],
        ["merging and quantizing pass (of zeros), s", f"{found['wall']:.0f}", ""],
    ]
    return f"### Memory, {size} shapes, Q4_K_M\n\n" + table(["", "edgekit", "target"], rows)
