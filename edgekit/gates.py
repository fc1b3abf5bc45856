"""Gates: bars that an artifact's measurements must pass, such as ``f1 >= 0.85``. Pure; nothing is measured here."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from edgekit.errors import GateError, InputError
from edgekit.units import UNITS

Kind = Literal["share", "bytes", "number"]
Need = Literal["text", "reference", "task", "speed"]


@dataclass(frozen=True)
class Metric:
    """Something that can be measured: its unit, what measuring it takes, and what it is."""

    kind: Kind
    needs: tuple[Need, ...]
    what: str


METRICS: Final[Mapping[str, Metric]] = {
    "size": Metric("bytes", (), "bytes of the model's files"),
    "memory": Metric("bytes", ("speed",), "peak memory of a process that runs it"),
    "decode_tps": Metric("number", ("speed",), "tokens written a second"),
    "prompt_tps": Metric("number", ("speed",), "prompt tokens read a second"),
    "ppl": Metric("number", ("text",), "perplexity of the text"),
    "ppl_ratio": Metric("number", ("text", "reference"), "perplexity over the reference's"),
    "kld": Metric("number", ("text", "reference"), "mean KL divergence to the reference, nats"),
    "kld_median": Metric("number", ("text", "reference"), "its median"),
    "kld_p99": Metric("number", ("text", "reference"), "its 99th percentile"),
    "kld_max": Metric("number", ("text", "reference"), "its largest"),
    "same_top": Metric("share", ("text", "reference"), "positions with the reference's likeliest token"),
    "dp_rms": Metric("share", ("text", "reference"), "RMS change of the right token's probability"),
    "precision": Metric("share", ("task",), "of all fields together"),
    "recall": Metric("share", ("task",), "of all fields together"),
    "f1": Metric("share", ("task",), "of all fields together (micro)"),
    "f1_macro": Metric("share", ("task",), "mean of the fields' F1"),
    "exact": Metric("share", ("task",), "records with every field right"),
    "accuracy": Metric("share", ("task",), "right labels, mean of the classification fields"),
    "valid": Metric("share", ("task",), "answers that satisfy the schema"),
    "f1_drop": Metric("share", ("task", "reference"), "the reference's F1 less this one"),
    "exact_drop": Metric("share", ("task", "reference"), "the reference's exact records less these"),
    "flips": Metric("share", ("task", "reference"), "records answered otherwise than by the reference"),
    "lost": Metric("share", ("task", "reference"), "records that the reference has right and this one wrong"),
}  # fmt: skip

_NEEDS: Final[Mapping[str, str]] = {
    "text": "a text", "reference": "a reference", "task": "a task", "speed": "a measurement of speed",
}  # fmt: skip
_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_EXPRESSION: Final = re.compile(
    r"\s*([A-Za-z0-9_]+)\s*(>=|<=|>|<|≥|≤)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z%]*)\s*"
)
_SHAPE: Final = "NAME OPERATOR NUMBER, such as 'f1 >= 0.85', 'flips <= 3%' or 'size <= 2GB'"


@dataclass(frozen=True)
class Gate:
    """One bar; ``bound`` is in the metric's own unit: a share of 1, bytes, or a plain number."""

    metric: str
    operator: str
    bound: float
    text: str
    """As it was written."""

    def passes(self, value: float) -> bool:
        """Whether a measurement is good enough; what is not a number never is."""
        return math.isfinite(value) and _OPERATORS[self.operator](value, self.bound)


@dataclass(frozen=True)
class Verdict:
    """A gate and what was measured; what was not measured has not passed."""

    gate: Gate
    value: float | None
    passed: bool


def parse(text: str) -> Gate:
    """Read ``f1 >= 0.85``, ``flips <= 3%`` or ``size <= 2GB``; ``InputError`` says what is wrong."""
    found = _EXPRESSION.fullmatch(text)
    if not found:
        raise InputError("can't read the gate", found=text[:200], expected=_SHAPE)
    name, sign, number, unit = found.groups()
    if name not in METRICS:
        near = difflib.get_close_matches(name.lower(), METRICS, 1)
        raise InputError(
            "a gate on something that isn't measured",
            found=name,
            expected=", ".join(METRICS),
            next_step=f"did you mean {near[0]}?" if near else None,
        )
    bound = float(number) * _scale(METRICS[name].kind, unit, text)
    if not math.isfinite(bound):
        raise InputError("the gate's number is out of range", found=text)
    return Gate(name, {"≥": ">=", "≤": "<="}.get(sign, sign), bound, text.strip())


def _scale(kind: Kind, unit: str, text: str) -> float:
    if not unit:
        return 1.0
    if kind == "share" and unit == "%":
        return 0.01
    if kind == "bytes" and unit in UNITS:
        return float(UNITS[unit])
    expected = {"share": "a share such as 0.03, or 3%", "bytes": ", ".join(UNITS), "number": "no unit"}[kind]
    raise InputError("the gate's unit doesn't fit what it is on", found=text, expected=expected)


def check_measured(gates: Sequence[Gate], given: Collection[str]) -> None:
    """``InputError`` for a gate on what won't be measured, before anything is: ``given`` holds what is at hand."""
    for gate in gates:
        lacking = [need for need in METRICS[gate.metric].needs if need not in given]
        if lacking:
            steps = {"speed": "leave out --no-speed"}
            raise InputError(
                f"the gate can't be judged: {gate.metric} takes {' and '.join(map(_NEEDS.__getitem__, lacking))}",
                found=gate.text,
                next_step=", ".join(steps.get(need, f"pass --{need}") for need in lacking),
            )


def judge(gates: Sequence[Gate], measured: Mapping[str, float]) -> list[Verdict]:
    """Hold measurements, by metric, against every gate."""
    verdicts = []
    for gate in gates:
        value = measured.get(gate.metric)
        verdicts.append(Verdict(gate, value, value is not None and gate.passes(value)))
    return verdicts


def shown(metric: str, value: float | None) -> str:
    """A measurement as a person reads it, in the unit that gates take."""
    if value is None:
        return "not measured"
    kind = METRICS[metric].kind
    if kind == "share":
        return f"{value:.4f}"
    if kind == "number":
        return f"{value:.6g}"
    unit = next((one for one in ("GB", "MB", "kB") if abs(value) >= UNITS[one]), "B")
    return f"{value / UNITS[unit]:.2f}{unit}" if unit != "B" else f"{value:.0f}B"


def explained(verdict: Verdict) -> str:
    """The gate as it was written, and what was measured."""
    value = shown(verdict.gate.metric, verdict.value)
    return f"{verdict.gate.text}, {value if verdict.value is None else f'measured {value}'}"


def require(verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    """``GateError`` that lists every gate that failed, by artifact; nothing where all have passed."""
    failed = [
        f"{name}: {explained(one)}" for name, found in verdicts.items() for one in found if not one.passed
    ]
    if failed:
        count = "1 gate" if len(failed) == 1 else f"{len(failed)} gates"
        raise GateError(f"{count} failed", found="; ".join(failed))
