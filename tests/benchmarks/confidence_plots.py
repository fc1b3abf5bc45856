"""The pictures of docs/confidence.md: reliability before and after, and risk against coverage. Read in grey too."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from PIL import Image

from edgekit.calibration import Outcomes
from edgekit.calibration_error import BINS, Vector, bins, calibration_error, risk_coverage

FEWEST = 10
"""A bin with fewer cases says nothing, and isn't drawn; the counts below show it."""
STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
BEFORE: dict[str, Any] = {
    "color": "0.55",
    "marker": "o",
    "markerfacecolor": "white",
    "linestyle": "--",
    "label": "before",
}
AFTER: dict[str, Any] = {"color": "black", "marker": "s", "linestyle": "-", "label": "after"}


def reliability(found: Outcomes, title: str, path: Path) -> None:
    """Share that is right against stated confidence, for fields and for records; below, how many cases there are."""
    with pyplot.rc_context(STYLE):
        figure, rows = pyplot.subplots(
            2, 2, figsize=(7, 4.4), sharex=True, height_ratios=[4, 1], layout="constrained"
        )
        panels = (
            ("fields", found.leaf_before, found.leaf_after, found.leaf_right),
            ("whole records", found.before, found.after, found.right),
        )
        for column, (name, before, after, right) in enumerate(panels):
            _reliability(rows[0, column], name, before, after, right)
            _counts(rows[1, column], before, after)
        figure.suptitle(title, fontsize=9)
        _save(figure, path)


def _reliability(axes: Axes, name: str, before: Vector, after: Vector, right: Vector) -> None:
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0, label="exact")
    for confidence, style in ((before, BEFORE), (after, AFTER)):
        parts = [part for part in bins(confidence, width=True) if len(part) >= FEWEST]
        stated = np.array([confidence[part].mean() for part in parts])
        share = np.array([right[part].mean() for part in parts])
        low, high = np.array([_wilson(float(right[part].sum()), len(part)) for part in parts]).T
        error = calibration_error(confidence, right, width=True)
        label = f"{style['label']} calibration, ECE {error:.3f}"
        bars = np.maximum(0, [share - low, high - share])
        axes.errorbar(
            stated, share, yerr=bars, **(style | {"label": label}), markersize=4, linewidth=1, elinewidth=0.6
        )
    axes.set(title=f"{name}, n = {len(right):,}", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="lower right")


def _counts(axes: Axes, before: Vector, after: Vector) -> None:
    edges = np.linspace(0, 1, BINS + 1).tolist()
    axes.hist(after, edges, color="0.35", label="after")
    axes.hist(before, edges, histtype="step", color="0.6", linestyle="--", label="before")
    axes.set(
        xlabel="stated confidence, 15 bins of equal width", ylabel="cases", yscale="log", ylim=(0.7, None)
    )


def risk(found: Outcomes, title: str, path: Path) -> None:
    """Share of records that is wrong among the most confident, by how many are kept."""
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
        right, count = found.right, len(found.right)
        points = np.unique(np.linspace(count / 100, count, 250).astype(int)) - 1  # a picture needs no more
        kept = (points + 1) / count * 100
        low, high = _band(found.after, right)
        axes.fill_between(
            kept, low[points] * 100, high[points] * 100, color="0.88", label="95 % of resamples"
        )
        axes.plot(
            kept,
            risk_coverage(found.before, right)[points] * 100,
            color="0.5",
            linestyle="--",
            label="before calibration",
        )
        axes.plot(
            kept, risk_coverage(found.after, right)[points] * 100, color="black", label="after calibration"
        )
        axes.plot(
            kept,
            risk_coverage(right, right)[points] * 100,
            color="0.5",
            linestyle=":",
            label="best possible order",
        )
        overall = (1 - right.mean()) * 100
        axes.plot([80], [overall / 2], marker="v", color="black", linestyle="none", markerfacecolor="white",
                  label="the bar: half of all, at 80 %")  # fmt: skip
        axes.set(xlabel="most confident records kept, % of all", ylabel="of these wrong, %")
        axes.set(xlim=(0, 100), ylim=(0, overall * 1.15))
        axes.legend(loc="upper left")
        axes.set_title(title, fontsize=9)
        _save(figure, path)


def _band(confidence: Vector, right: Vector, draws: int = 500) -> tuple[Vector, Vector]:
    random, count = np.random.default_rng(0), len(right)
    curves = []
    for _ in range(draws):
        chosen = random.integers(0, count, count)
        curves.append(risk_coverage(confidence[chosen], right[chosen]))
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    return low, high


def _wilson(right: float, count: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z = 1.96
    share, scale = right / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def _save(figure: Any, path: Path) -> None:
    """Sixteen greys are enough for black on white, and a fourth of the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=150)
    pyplot.close(figure)
    Image.open(drawn).convert("L").quantize(16).save(path, optimize=True)
