"""What edgekit extract costs around the model: a stand-in gives canned results, all the rest is real.

JSONL in, JSONL and a review file out, ids compared, synced every two seconds, each size in a process of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tests.benchmarks.common import Setting, python, say
from tests.benchmarks.measure import own_peak, run_child
from tests.benchmarks.report import table

SIZES = (10_000, 100_000, 1_000_000)
MB = 1e6
FIELDS = ("people", "date", "time", "first_name", "last_name")


def run(setting: Setting) -> str:
    """All sizes; one markdown section."""
    rows = []
    folder = setting.work / "pipeline"
    for size in SIZES:
        say(f"extracting {size:,} canned records …")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            run_child(python("pipeline", folder, size), setting.log)
            found = json.loads((folder / "found.json").read_text())
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        wall, cpu = (found[name] / size * 1e6 for name in ("wall", "cpu"))
        rows.append(
            [
                f"{size:,}",
                f"{wall:.1f}",
                f"{cpu:.1f}",
                f"{found['before'] / MB:.0f}",
                f"{found['peak'] / MB:.0f}",
            ]
        )
    header = ["records", "µs a record, wall", "µs a record, CPU", "RSS before, MB", "peak RSS, MB"]
    return "### The pipeline around the model (target: at most 50 µs a record, flat memory)\n\n" + table(
        header, rows
    )


class Canned:
    """Every hundredth record is doubtful, every thousandth has failed; the rest is the same for each."""

    epoch, batching = 256, "canned"

    def extract_many(self, texts: Iterable[str], *_: Any, **__: Any) -> Iterator[Any]:
        from edgekit.answer import Extraction, Failure

        data = dict.fromkeys(FIELDS[2:]) | {"people": "2 adults", "date": "tomorrow"}
        sure = {name: 0.987654 for name in FIELDS}
        good = Extraction(data, "", False, 30, 0.01, sure, 0.95)
        doubtful = Extraction(data, "", False, 30, 0.01, sure | {"date": 0.4}, 0.4, needs_review=True)
        failed = Extraction(
            None, "", True, 30, 0.01, needs_review=True, failure=Failure("truncated", "cut off")
        )
        for n, _text in enumerate(texts):
            yield failed if n % 1000 == 7 else doubtful if n % 100 == 3 else good


def write_records(path: Path, count: int) -> None:
    """JSONL of booking requests of some 60 characters."""
    with path.open("w") as file:
        for n in range(count):
            file.write(
                f'{{"id":"req-{n:07}","text":"A table for 2 adults tomorrow at 7:30 pm please, number {n}"}}\n'
            )


def side(folder: Path, count: int) -> None:
    """One measured run; figures go to found.json."""
    from edgekit.pipeline import Job, extract_files

    (folder / "model.gguf").touch()
    write_records(folder / "in.jsonl", count)
    properties = {name: {"type": ["string", "null"]} for name in FIELDS}
    job = Job(
        bundle=folder / "model.gguf",
        inputs=(str(folder / "in.jsonl"),),
        out=folder / "out.jsonl",
        review=folder / "review.jsonl",
        schema={"type": "object", "properties": properties, "additionalProperties": False},
        prompt="{text}",
        min_confidence=0.9,
    )
    before = own_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    summary = extract_files(job, load=lambda: nullcontext(Canned()))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert summary.records == count and summary.duplicate_ids == 0
    found = {"wall": wall, "cpu": cpu, "before": before, "peak": own_peak()}
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    side(Path(sys.argv[1]), int(sys.argv[2]))
