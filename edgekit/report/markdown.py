"""The report as Markdown, for the summary of a CI run."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.markdown import table, words
from edgekit.report import facts
from edgekit.report.collect import Entry


def markdown(entries: Sequence[Entry], title: str) -> str:
    """The table of bundles, every gate, and F1 by field."""
    heads = [f"{one.name}, {one.unit}" if one.unit else one.name for one in facts.COLUMNS]
    parts = [f"## {words(title)}", table(heads, [list(map(words, facts.row(entry))) for entry in entries])]
    gates = [
        [*map(words, (entry.label, one.gate, facts.gate(one))), "passed" if one.passed else "**failed**"]
        for entry in entries
        for one in entry.gates
    ]
    if gates:
        parts += ["### Gates", table(["bundle", "gate", "measured", ""], gates)]
    if fields := facts.fields(entries):
        labels = [words(entry.label) for entry in entries if entry.task]
        rows = [list(map(words, [name, *cells])) for name, cells in fields.items()]
        parts += ["### F1 by field", table(["field", *labels], rows)]
    if missing := [words(entry.label) for entry in entries if not entry.measured]:
        parts.append(f"Not measured: {', '.join(missing)}. `edgekit eval` or gates in the build do it.")
    return "\n\n".join(parts) + "\n"
