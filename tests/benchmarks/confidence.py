"""How far confidences can be trusted: fitted on one file, measured on another. Writes tables and pictures.

    python -m tests.benchmarks.confidence --data FOLDER [--markdown docs/confidence.md]

``FOLDER`` is the one that EDGEKIT_TEST_DATA names: tasks/restaurant/{dev,test}.jsonl, tasks/card-purchases/test.jsonl,
and models/. Nothing here depends on speed, so it may run on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from edgekit import calibration
from edgekit.build import build
from edgekit.bundle import Bundle
from edgekit.calibration import Judged, Outcomes
from edgekit.calibration_error import Vector, calibration_error, error_by_chance, risk_coverage
from edgekit.confidence import Trace
from edgekit.confidence_map import fitted_for
from edgekit.files import sha256
from edgekit.labelled import judge, read_task
from edgekit.project import BuildSpec, read_project
from edgekit.traces import tracing
from tests.benchmarks.report import machine, table

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
BEGIN, END = "<!-- figures: tests/benchmarks/confidence.py -->", "<!-- end of figures -->"
DRAWS = 1000


def bundles(work: Path, data: Path) -> dict[str, Bundle]:
    """The restaurant example in two quantizations, and the card-purchases task, built where they are missing."""
    example = read_project(ROOT / "examples" / "restaurant" / "edgekit.toml")
    task, models = data / "tasks" / "card-purchases", data / "models"
    card = BuildSpec(
        base=models / "tiny-extract",
        adapters=((models / "tiny-extract-card-lora", 1.0),),
        out=work / "dist",
        name="card",
        quantizations=("Q8_0",),
        prompt=(task / "prompt.txt").read_text(),
        output_schema=json.loads((task / "schema.json").read_text()),
    )
    for spec, first in ((replace(example, out=work / "dist"), "restaurant-q8_0"), (card, "card-q8_0")):
        if not (work / "dist" / first).exists():
            build(replace(spec, force=True))
    names = ("restaurant-q8_0", "restaurant-q4_k_m", "card-q8_0")
    return {name: Bundle.open(work / "dist" / name) for name in names}


def judged(work: Path, bundle: Bundle, task: Path, threads: int) -> list[Judged]:
    """Every record of a task answered and judged; traces are kept in ``work`` for the next run."""
    labelled = read_task(task, bundle.manifest.output_schema or {})
    kept = work / f"traces-{sha256(bundle.artifact)[:12]}-{labelled.sha256[:12]}.msgpack"
    if not kept.exists():
        print(f"{bundle.folder.name}: {len(labelled.records)} records of {task.name} …", flush=True)
        with tracing(bundle, threads) as extract:
            found = [trace for _, trace, _ in extract([record.text for record in labelled.records])]
        kept.write_bytes(msgspec.msgpack.encode(found))
    traces = msgspec.msgpack.decode(kept.read_bytes(), type=list[Trace])
    return [judge(record, trace) for record, trace in zip(labelled.records, traces, strict=True)]


def interval(values: Sequence[float], digits: int) -> str:
    """The middle 95 % of resampled values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{low:.{digits}f}–{high:.{digits}f}"


def resampled(found: Outcomes) -> list[tuple[float, ...]]:
    """Records drawn again, with all their fields: ECE of fields and records, risk at 80 %, and its ratio to all."""
    count = len(found.right)
    leaves = np.split(np.arange(len(found.leaf_right)), np.cumsum(_leaves_per_record(found))[:-1])
    random = np.random.default_rng(0)
    drawn: list[tuple[float, ...]] = []
    for _ in range(DRAWS):
        chosen = random.integers(0, count, count)
        leaf = np.concatenate([leaves[index] for index in chosen])
        risk = _risk(found.after[chosen], found.right[chosen])
        drawn.append(
            (
                calibration_error(found.leaf_after[leaf], found.leaf_right[leaf]),
                calibration_error(found.after[chosen], found.right[chosen]),
                risk,
                risk / (1 - found.right[chosen].mean()),
            )
        )
    return drawn


def _leaves_per_record(found: Outcomes) -> list[int]:
    """Both tasks have the same fields in every record."""
    count, rest = divmod(len(found.leaf_right), len(found.right))
    assert rest == 0
    return [count] * len(found.right)


def _risk(confidence: Vector, right: Vector, coverage: float = 0.8) -> float:
    return float(risk_coverage(confidence, right)[round(coverage * len(right)) - 1])


def errors(before: Vector, after: Vector, right: Vector, drawn: Sequence[float]) -> list[str]:
    """Calibration errors of one kind of case: before, after with its interval, and what chance alone gives."""
    cells = [f"{calibration_error(p, right, width=w):.4f}" for w in (False, True) for p in (before, after)]
    cells[1] += f" ({interval(drawn, 4)})"
    return [f"{len(right):,}", *cells, f"{error_by_chance(after):.4f}"]


def rows(name: str, found: Outcomes) -> tuple[list[list[str]], list[str]]:
    """Two rows of calibration errors, and one of what is wrong at 80 % coverage."""
    leaf_drawn, drawn, risk_drawn, ratio_drawn = zip(*resampled(found), strict=True)
    calibrated = [
        [f"{name}, fields", *errors(found.leaf_before, found.leaf_after, found.leaf_right, leaf_drawn)],
        [f"{name}, records", *errors(found.before, found.after, found.right, drawn)],
    ]
    overall, risk = 1 - found.right.mean(), _risk(found.after, found.right)
    kept = [
        name,
        f"{overall:.1%}",
        f"{_risk(found.before, found.right):.1%}",
        f"{risk:.1%} ({interval([100 * value for value in risk_drawn], 1)})",
        f"{risk / overall:.2f} ({interval(ratio_drawn, 2)})",
        f"{max(0.0, 1 - found.right.mean() / 0.8):.1%}",
    ]
    return calibrated, kept


def measure(work: Path, data: Path, threads: int) -> tuple[dict[str, Outcomes], Outcomes]:
    """Outcomes by name, on records that no map was fitted on; the second value is what the pictures show."""
    built, tasks = bundles(work, data), data / "tasks"
    found: dict[str, Outcomes] = {}
    for quant, counts in (("q8_0", (1000, 300, 100)), ("q4_k_m", (1000,))):
        bundle = built[f"restaurant-{quant}"]
        dev = judged(work, bundle, tasks / "restaurant" / "dev.jsonl", threads)
        test = judged(work, bundle, tasks / "restaurant" / "test.jsonl", threads)
        for count in counts:
            fitted = calibration.fit(dev[:count], fitted_for(bundle.manifest))
            found[f"restaurant {quant.upper()}, fitted on {count:,}"] = calibration.outcomes(
                test, [fitted] * len(test)
            )
    card = judged(work, built["card-q8_0"], tasks / "card-purchases" / "test.jsonl", threads)
    cross = calibration.cross_fit(card, fitted_for(built["card-q8_0"].manifest))
    return found | {"card-purchases Q8_0, cross-fitted": cross}, next(iter(found.values()))


def report(found: dict[str, Outcomes], where: str) -> str:
    """Both tables as markdown."""
    calibrated, kept = [], []
    for name, outcome in found.items():
        two, one = rows(name, outcome)
        calibrated += two
        kept.append(one)
    first = table(
        [
            "calibration error in 15 bins",
            "n",
            "equal mass, before",
            "after (95 %)",
            "equal width, before",
            "after",
            "by chance",
        ],
        calibrated,
    )
    second = table(
        [
            "records wrong",
            "of all",
            "of the surest 80 %, before",
            "after (95 %)",
            "of that of all (95 %)",
            "best possible",
        ],
        kept,
    )
    return f"{first}\n\n{second}\n\n{where}"


def main() -> None:
    """Measure, draw, print; with --markdown put the tables between their marks in a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKIT_TEST_DATA"), required="EDGEKIT_TEST_DATA" not in os.environ)  # fmt: skip
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "confidence")
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    found, shown = measure(chosen.work, chosen.data, chosen.threads)
    draw(shown, chosen.images)
    text = report(found, machine(chosen.threads))
    print(text)
    if chosen.markdown:
        page = chosen.markdown.read_text()
        head, rest = page.split(BEGIN)
        chosen.markdown.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


def draw(found: Outcomes, images: Path) -> None:
    """Both pictures of the restaurant model."""
    from tests.benchmarks import confidence_plots as plots

    title = "restaurant Q8_0 (7.3M parameters) on a CPU, {} held-out utterances"
    title = title.format(f"{len(found.right):,}")
    plots.reliability(found, title, images / "reliability.png")
    plots.risk(found, title, images / "risk-coverage.png")


if __name__ == "__main__":
    main()
