"""A report's tables as text: what a person reads of each bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgekit.evaluation.figures import Change, FieldFigures
from edgekit.evidence import Judged
from edgekit.gates import parse, shown
from edgekit.report.collect import Entry
from edgekit.units import size

FLIPS: Final = 40
"""Changed answers that a page shows of a bundle."""
NOTHING: Final = "–"


@dataclass(frozen=True)
class Column:
    """A column's head, and whether it holds figures."""

    name: str
    figures: bool = True
    unit: str = ""


COLUMNS: Final = (
    Column("bundle", False), Column("target", False), Column("quantization", False), Column("size"),
    Column("memory", unit="at least"), Column("KL divergence", unit="nats"), Column("same top"), Column("F1", unit="95 %"),
    Column("flips"), Column("decode", unit="tok/s"), Column("gates", False),
)  # fmt: skip


def row(entry: Entry) -> list[str]:
    """A bundle's cells, in the order of ``COLUMNS``."""
    about, memory = entry.manifest, entry.manifest.requirements.memory
    beside = entry.text.reference if entry.text else None
    flips = entry.task.reference if entry.task else None
    needed = about.target.memory if about.target else min(memory.values(), default=None)
    return [
        entry.label,
        about.target.name if about.target else NOTHING,
        about.quantization,
        size(entry.size),
        size(needed) if needed is not None else NOTHING,
        f"{beside.kld.value:.4g} ± {beside.kld.error:.1g}" if beside else NOTHING,
        f"{beside.same_top.value:.1%}" if beside else NOTHING,
        _f1(entry.task.micro) if entry.task else NOTHING,
        f"{flips.share.value:.1%}" if flips else NOTHING,
        f"{entry.speed.decode_tps:,.0f}" if entry.speed else NOTHING,
        _passed(entry),
    ]


def _f1(figures: FieldFigures) -> str:
    if figures.f1_interval is None:
        return f"{figures.f1:.3f}"
    low, high = figures.f1_interval
    return f"{figures.f1:.3f} ({low:.3f}–{high:.3f})"


def _passed(entry: Entry) -> str:
    if entry.passed is None:
        return NOTHING
    count = len(entry.gates)
    failed = sum(not gate.passed for gate in entry.gates)
    return f"{failed} of {count} failed" if failed else f"{count} passed"


def gate(one: Judged) -> str:
    """What was measured for a gate, as a person reads it."""
    return shown(parse(one.gate).metric, one.measured)


def fields(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """F1 of every field, by its name, in the order of those entries that have a task."""
    tasked = [entry.task for entry in entries if entry.task]
    names = dict.fromkeys(name for task in tasked for name in task.fields)
    return {
        name: [_f1(task.fields[name]) if name in task.fields else NOTHING for task in tasked]
        for name in names
    }


@dataclass(frozen=True)
class Flip:
    """A changed answer: each field's value as expected, as the reference had it and as this bundle has it."""

    id: str
    kind: str
    rows: list[tuple[str, str, str, str, bool]]
    """Field, expected, reference, candidate, and whether the last two differ."""


def flips(entry: Entry) -> tuple[list[Flip], int]:
    """Changed answers, those that were lost first, and how many more there are."""
    found = entry.task.reference if entry.task else None
    if found is None:
        return [], 0
    order = {"lost": 0, "gained": 1, "other": 2}
    changes = sorted(found.changes, key=lambda change: order.get(change.kind, 3))
    return [_flip(change) for change in changes[:FLIPS]], len(changes) - len(changes[:FLIPS])


def _flip(change: Change) -> Flip:
    theirs, ours = change.reference, change.candidate
    names = dict.fromkeys([*change.expected, *(theirs or {}), *(ours or {})])
    rows = []
    for name in names:
        before, after = _value(theirs, name), _value(ours, name)
        row = name, _value(change.expected, name), before, after, before != after
        if set(row[1:4]) != {NOTHING}:
            rows.append(row)
    return Flip(change.id, change.kind, rows)


def _value(data: dict[str, Any] | None, name: str) -> str:
    if data is None:
        return "no answer"
    value = data.get(name)
    return NOTHING if value is None else str(value)[:300]
