"""All that was measured, as rows, as figures that gates name, and as one JSON document."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import msgspec

from edgekit import __version__
from edgekit.evaluation.figures import TaskFigures
from edgekit.evaluation.plan import Plan
from edgekit.evaluation.running import Speed
from edgekit.evaluation.text import TextFigures
from edgekit.gates import METRICS, Verdict


class Row(msgspec.Struct, frozen=True):
    """All that was measured of one model."""

    label: str
    path: str
    quantization: str
    size: int
    """Bytes of the model's files."""
    sha256: str
    text: TextFigures | None = None
    task: TaskFigures | None = None
    speed: Speed | None = None


@dataclass(frozen=True)
class Evaluation:
    """A row for each bundle and one for the reference, and every gate's verdict by bundle."""

    plan: Plan
    rows: list[Row]
    reference: Row | None
    verdicts: dict[str, list[Verdict]]
    text_sha256: str | None = None
    task_sha256: str | None = None
    machine: str = ""
    notes: list[str] = field(default_factory=list)


def measured(row: Row) -> dict[str, float]:
    """A model's figures by the names that gates take; what wasn't measured isn't there."""
    found: dict[str, float] = {"size": row.size}
    if row.speed:
        found |= {"decode_tps": row.speed.decode_tps, "prompt_tps": row.speed.prompt_tps}
        if row.speed.memory is not None:
            found["memory"] = row.speed.memory
    if row.text:
        found |= _of_text(row.text)
    if row.task:
        found |= _of_task(row.task)
    assert found.keys() <= METRICS.keys()
    return found


def _of_text(text: TextFigures) -> dict[str, float]:
    found, beside = {"ppl": text.ppl.value}, text.reference
    if beside:
        found |= {
            "ppl_ratio": beside.ppl_ratio.value,
            "kld": beside.kld.value,
            "kld_median": beside.kld_median,
            "kld_p99": beside.kld_p99,
            "kld_max": beside.kld_max,
            "same_top": beside.same_top.value,
            "dp_rms": beside.dp_rms.value,
        }
    return found


def _of_task(task: TaskFigures) -> dict[str, float]:
    found = {
        "precision": task.micro.precision,
        "recall": task.micro.recall,
        "f1": task.micro.f1,
        "f1_macro": task.macro.f1.value,
        "exact": task.exact.value,
        "valid": task.valid.value,
    }
    if task.classes:
        found["accuracy"] = fmean(one.accuracy.value for one in task.classes.values())
    if flips := task.reference:
        found |= {
            "f1_drop": flips.f1_drop.value,
            "exact_drop": flips.exact_drop.value,
            "flips": flips.share.value,
            "lost": flips.lost / task.records,
        }
    return found


def document(found: Evaluation) -> dict[str, Any]:
    """Everything as plain values; see docs/evaluation.md."""
    plan = found.plan
    return {
        "edgekit": __version__,
        "machine": found.machine,
        "text": None if plan.text is None else {"path": str(plan.text), "sha256": found.text_sha256},
        "task": None if plan.task is None else {"path": str(plan.task), "sha256": found.task_sha256},
        "adapters": [{"path": str(path), "weight": weight} for path, weight in plan.adapters],
        "seed": plan.seed,
        "reference": None if found.reference is None else _row(found.reference, []),
        "bundles": [_row(row, found.verdicts[row.label]) for row in found.rows],
        "passed": all(one.passed for verdicts in found.verdicts.values() for one in verdicts),
        "notes": found.notes,
    }


def _row(row: Row, verdicts: list[Verdict]) -> dict[str, Any]:
    gates = [{"gate": one.gate.text, "measured": one.value, "passed": one.passed} for one in verdicts]
    plain: dict[str, Any] = msgspec.to_builtins(row)
    return plain | {"measured": measured(row), "gates": gates}
