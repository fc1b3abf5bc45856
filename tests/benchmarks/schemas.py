"""How long hostile schemas take until refused or ready: `python -m tests.benchmarks.schemas`; the slowest ones.

Ready means: compiled, a matcher over a vocabulary of 128k made, its first mask computed.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from edgekit.errors import InputError
from edgekit.runtimes.constraint import Vocabulary, compile_schema
from tests.benchmarks.masks import SCHEMA, Words
from tests.benchmarks.report import table
from tests.runtimes.test_hostile_schemas import ACCEPTED, REFUSED

SHOWN = 12


def main() -> None:
    """Seconds, the slowest of three runs each."""
    vocabulary = Vocabulary(Words(128_256))  # type: ignore[arg-type]
    logits = np.zeros(vocabulary.size, np.float32)
    schemas = {**REFUSED, **ACCEPTED, "five nullable strings": SCHEMA}
    found = {
        name: max(_seconds(schema, vocabulary, logits) for _ in range(3)) for name, schema in schemas.items()
    }
    slowest = sorted(found.items(), key=lambda item: -item[1][0])[:SHOWN]
    rows = [[name, f"{seconds:.3f}", how] for name, (seconds, how) in slowest]
    rows.append(["five nullable strings", f"{found['five nullable strings'][0]:.4f}", "ready"])
    sys.stdout.write(table(["schema", "s", ""], rows) + "\n")


def _seconds(schema: Any, vocabulary: Vocabulary, logits: Any) -> tuple[float, str]:
    start = time.perf_counter()
    try:
        vocabulary.matcher(compile_schema(schema)).mask(logits)
        how = "ready"
    except InputError:
        how = "refused"
    return time.perf_counter() - start, how


if __name__ == "__main__":
    main()
