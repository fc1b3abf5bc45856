"""`edgekit build` as a user calls it, in this process; afterwards its figures are written to a file.

``python -m tests.benchmarks.edgekit_side FIGURES.json BASE --adapter …``
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.measure import own_peak, steps_peak

if TYPE_CHECKING:
    from edgekit.build import Built


def main() -> None:
    """Run the command with a look at what ``build`` returns; nothing inside it is changed."""
    figures, *arguments = sys.argv[1:]
    pipeline: Any = importlib.import_module("edgekit.build")
    build, kept = pipeline.build, []

    def observed(*given: Any, **named: Any) -> list[Built]:
        built: list[Built] = build(*given, **named)
        kept.extend(built)
        return built

    pipeline.build = observed
    sys.argv = ["edgekit", "build", *arguments]
    importlib.import_module("edgekit.cli").main()
    timing = kept[0].timing
    assert timing is not None
    found = {
        "artifact": str(kept[0].folder / "model.gguf"),
        "size": kept[0].size,
        "wall": timing.wall,
        "total": timing.total,
        "quantizing": timing.quantizing,
        "main_peak": own_peak(),
        "step_peak": steps_peak(),
    }
    Path(figures).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
