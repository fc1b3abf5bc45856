"""How sure the figures that gates name are: their 95 % intervals, where they have one."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Final

from edgekit.evaluation.document import Row
from edgekit.evaluation.figures import TaskFigures
from edgekit.evaluation.text import Mean, TextFigures

Z: Final = 1.96
"""Standard errors to either side of a mean."""
Ends = tuple[float, float]


def intervals(row: Row) -> dict[str, Ends]:
    """Low and high end by metric.

    A text's means: 1.96 standard errors to either side. A task's figures: their bootstrap intervals; ``lost`` is a
    share of independent records and has Wilson's (1927). ``accuracy`` of several fields: the means of the ends.
    Sizes, speeds, quantiles, maxima, precision and recall have none.
    """
    return (_of_text(row.text) if row.text else {}) | (_of_task(row.task) if row.task else {})


def _of_text(text: TextFigures) -> dict[str, Ends]:
    found = {"ppl": _mean(text.ppl)}
    if beside := text.reference:
        found |= {
            "ppl_ratio": _mean(beside.ppl_ratio),
            "kld": _mean(beside.kld),
            "same_top": _mean(beside.same_top),
            "dp_rms": _mean(beside.dp_rms),
        }
    return found


def _of_task(task: TaskFigures) -> dict[str, Ends]:
    sure = {"f1_macro": task.macro.f1, "exact": task.exact, "valid": task.valid}
    found = {name: (one.low, one.high) for name, one in sure.items()}
    if task.micro.f1_interval is not None:
        found["f1"] = task.micro.f1_interval
    if task.classes:
        ends = [one.accuracy for one in task.classes.values()]
        found["accuracy"] = fmean(one.low for one in ends), fmean(one.high for one in ends)
    if flips := task.reference:
        found |= {
            "f1_drop": (flips.f1_drop.low, flips.f1_drop.high),
            "exact_drop": (flips.exact_drop.low, flips.exact_drop.high),
            "flips": (flips.share.low, flips.share.high),
            "lost": wilson(flips.lost, task.records),
        }
    return found


def _mean(one: Mean) -> Ends:
    return one.value - Z * one.error, one.value + Z * one.error


def wilson(count: int, of: int) -> Ends:
    """Wilson's score interval of a share, which is not empty even where nothing was counted."""
    share, square = count / of, Z * Z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = Z / (1 + square / of) * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)
