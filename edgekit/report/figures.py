"""A report's pictures as SVG: the same bytes for the same figures; text takes the page's colour."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from edgekit.errors import RuntimeUnavailableError
from edgekit.reliability import Reliability
from edgekit.report.collect import Entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK: Final = "#123454"
"""Stands for the page's own colour, which a dark page has light."""
_SERIES: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
"""Okabe and Ito's colours, which everyone can tell apart."""
_STYLE: Final[Any] = {
    "svg.hashsalt": "edgekit", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10,
    "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "grid.color": _INK,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "text.parse_math": False,
}  # fmt: skip


@contextmanager
def _drawing(width: float, height: float) -> Iterator[tuple[Any, Any]]:
    try:
        import matplotlib
    except ImportError as error:
        raise RuntimeUnavailableError(
            "a report's pictures need matplotlib",
            next_step="pip install 'edgekit[report]', or pass --markdown",
        ) from error
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot()


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        r"\1",
        re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1),
        count=1,
    )


def pareto(entries: Sequence[Entry], metric: str) -> str | None:
    """Size against ``kld`` (low is good) or ``f1`` (high is good), coloured by decode speed; None for fewer than two."""
    points = [(one, value) for one in entries if (value := getattr(one, metric)) is not None]
    if metric == "kld":
        points = [(one, value) for one, value in points if value > 0]
    if len(points) < 2:
        return None
    with _drawing(7.2, 4.4) as (figure, axes):
        speeds = [one.speed.decode_tps if one.speed else None for one, _ in points]
        xs, ys = [one.size / 1e6 for one, _ in points], [value for _, value in points]
        if metric == "kld":
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:.4g}")
            axes.yaxis.set_minor_formatter("")
        front = _front(list(zip(xs, ys, strict=True)), low=metric == "kld")
        axes.plot(*zip(*front, strict=True), color=_SERIES[0], alpha=0.45, linewidth=1.5, zorder=1)
        _scatter(figure, axes, xs, ys, speeds)
        axes.margins(0.16, 0.16)
        axes.set_xlabel("size, MB")
        axes.set_ylabel("mean KL divergence, nats" if metric == "kld" else "F1 of all fields")
        _labels(figure, axes, xs, ys, [one.label for one, _ in points])
        return _svg(figure)


def _front(points: Sequence[tuple[float, float]], *, low: bool) -> list[tuple[float, float]]:
    """The points that no smaller one beats."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], point[1] if low else -point[1])):
        if not found or (y < found[-1][1] if low else y > found[-1][1]):
            found.append((x, y))
    return found


def _scatter(
    figure: Any, axes: Axes, xs: Sequence[float], ys: Sequence[float], speeds: Sequence[float | None]
) -> None:
    known = [speed for speed in speeds if speed is not None]
    if len(known) < len(speeds):
        axes.scatter(xs, ys, s=46, color=_SERIES[0], zorder=3)
        return
    drawn = axes.scatter(xs, ys, s=46, c=known, cmap="viridis", zorder=3, edgecolors=_INK, linewidths=0.5)
    figure.colorbar(drawn, ax=axes, label="decode, tokens a second", shrink=0.8)


def _labels(figure: Any, axes: Axes, xs: Sequence[float], ys: Sequence[float], names: Sequence[str]) -> None:
    """Put every name beside its point where it covers no other; in two columns of places, near ones first."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else None
    taken = [_around(axes.transData.transform(point)) for point in zip(xs, ys, strict=True)]
    for x, y, name in zip(xs, ys, names, strict=True):
        shown = name if len(name) <= 34 else name[:33] + "…"
        for dx, dy, align in _PLACES:
            note = axes.annotate(
                shown, (x, y), (dx, dy), textcoords="offset points", ha=align, va="center", fontsize=9
            )
            box = note.get_window_extent(renderer)
            fits = axes.bbox.x0 + 3 <= box.x0 and box.x1 <= axes.bbox.x1 + 20
            if fits and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            note.remove()
        else:
            axes.annotate(shown, (x, y), (7, 7), textcoords="offset points", fontsize=6)


_PLACES: Final = tuple(
    (dx, dy, align)
    for far in (0, 14, 26, 38)
    for dx, dy, align in (
        (7, 8 + far, "left"), (-7, 8 + far, "right"), (7, -9 - far, "left"), (-7, -9 - far, "right"),
        (0, 12 + far, "center"), (0, -13 - far, "center"),
    )
)  # fmt: skip


def _around(point: Any) -> Any:
    from matplotlib.transforms import Bbox

    x, y = point
    return Bbox.from_extents(x - 5, y - 5, x + 5, y + 5)


def fields(entries: Sequence[Entry]) -> str | None:
    """F1 of every field with its interval, a colour for each bundle."""
    tasked = [(one.label, one.task) for one in entries if one.task]
    names = list(dict.fromkeys(name for _, task in tasked for name in task.fields))
    if not names:
        return None
    step = 0.8 / len(tasked)
    with _drawing(7.2, 1.2 + 0.28 * len(names) * max(2, len(tasked))) as (figure, axes):
        for number, (label, task) in enumerate(tasked):
            there = [(at, task.fields[name]) for at, name in enumerate(names) if name in task.fields]
            places = [at + (number - (len(tasked) - 1) / 2) * step for at, _ in there]
            values = [one.f1 for _, one in there]
            spans = [one.f1_interval or (one.f1, one.f1) for _, one in there]
            errors = [
                [max(0.0, value - low) for value, (low, _) in zip(values, spans, strict=True)],
                [max(0.0, high - value) for value, (_, high) in zip(values, spans, strict=True)],
            ]
            colour = _SERIES[number % len(_SERIES)]
            axes.errorbar(
                values, places, xerr=errors, fmt="o", color=colour, label=label, markersize=5, capsize=2
            )
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("F1, with its 95 % interval")
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside upper left", frameon=False, ncols=2)
        return _svg(figure)


def risk(found: Reliability) -> str:
    """Of the surest share of records, the share that is wrong."""
    with _drawing(5.2, 3.2) as (figure, axes):
        points = sorted((one.coverage, one.risk) for one in found.risks)
        axes.plot(*zip(*points, strict=True), marker="o", color=_SERIES[0])
        axes.set_xlabel("share of records that is answered, surest first")
        axes.set_ylabel("share of these that is wrong")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.yaxis.set_major_formatter("{x:.1%}")
        return _svg(figure)
