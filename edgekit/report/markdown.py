"""The report as Markdown, for the summary of a CI run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgekit.report import facts
from edgekit.report.collect import Entry


def markdown(entries: Sequence[Entry], title: str) -> str:
    """The table of bundles, every gate, and F1 by field."""
    heads = [f"{one.name}, {one.unit}" if one.unit else one.name for one in facts.COLUMNS]
    lines = [f"## {_safe(title)}", "", *_table(heads, [facts.row(entry) for entry in entries])]
    gates = [
        [entry.label, one.gate, facts.gate(one), "passed" if one.passed else "**failed**"]
        for entry in entries
        for one in entry.gates
    ]
    if gates:
        lines += ["", "### Gates", "", *_table(["bundle", "gate", "measured", ""], gates, bold=True)]
    if rows := facts.fields(entries):
        labels = [entry.label for entry in entries if entry.task]
        lines += [
            "",
            "### F1 by field",
            "",
            *_table(["field", *labels], [[name, *cells] for name, cells in rows.items()]),
        ]
    if missing := [entry.label for entry in entries if not entry.measured]:
        lines += [
            "",
            f"Not measured: {', '.join(map(_safe, missing))}. `edgekit eval` or gates in the build do it.",
        ]
    return "\n".join(lines) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, bold: bool = False) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return [
        line([_safe(head) for head in heads]),
        line(["---"] * len(heads)),
        *(line([cell if bold and cell == "**failed**" else _safe(cell) for cell in row]) for row in rows),
    ]


def _safe(text: str) -> str:
    """Text from elsewhere as text: no markup, no new cell, no new line."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~])", r"\\\1", re.sub(r"\s+", " ", text))
