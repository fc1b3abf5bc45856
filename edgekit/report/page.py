"""The report as one HTML file: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from edgekit import __version__
from edgekit.heat import heat
from edgekit.report import facts, figures
from edgekit.report.collect import Entry


def page(entries: Sequence[Entry], title: str) -> str:
    """All of it; everything that comes from bundles is escaped. Raises ``RuntimeUnavailableError`` without matplotlib."""
    from jinja2 import Environment
    from markupsafe import Markup

    def picture(svg: str | None) -> Markup | None:
        return None if svg is None else Markup(svg)

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("edgekit.report").joinpath("page.html").read_text("utf-8"))
    tasked = [entry for entry in entries if entry.task]
    return template.render(
        title=title,
        version=__version__,
        columns=facts.COLUMNS,
        rows=[(entry, facts.row(entry)) for entry in entries],
        plots=[
            (
                "Size and KL divergence",
                "Low and to the left is good.",
                picture(figures.pareto(entries, "kld")),
            ),
            ("Size and F1", "High and to the left is good.", picture(figures.pareto(entries, "f1"))),
        ],
        field_plot=picture(figures.fields(tasked)),
        field_columns=[entry.label for entry in tasked],
        field_rows=facts.fields(entries),
        gated=[(entry, [(one, facts.gate(one)) for one in entry.gates]) for entry in entries if entry.gates],
        flipped=[_flipped(entry) for entry in tasked if entry.task and entry.task.reference],
        heats=[(entry, heat(entry.types), _chosen(entry)) for entry in entries],
        reliable=[
            (entry, found, picture(figures.risk(found)))
            for entry in entries
            if (found := entry.manifest.confidence) is not None
        ],
        unmeasured=[entry.label for entry in entries if not entry.measured],
        references=sorted({entry.reference for entry in entries if entry.reference}),
    )


def _flipped(entry: Entry) -> dict[str, Any]:
    assert entry.task and entry.task.reference
    shown, more = facts.flips(entry)
    return {"label": entry.label, "figures": entry.task.reference, "records": entry.task.records,
            "shown": shown, "more": more}  # fmt: skip


def _chosen(entry: Entry) -> str | None:
    """How the types of an automatic bundle were found."""
    found = entry.manifest.allocation
    if found is None:
        return None
    kept = next((one for one in found.candidates if one.kept), None)
    measured = (
        f"; KL divergence {kept.kld:.3g} on {found.tokens:,} calibration tokens set apart" if kept else ""
    )
    return f"{found.asked}: {found.bits:.2f} bits per quantized weight, rounding {found.rounding}{measured}"
