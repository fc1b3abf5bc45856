"""Bars as they are written, what they let through, and when they can't be judged."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import GateError, InputError
from edgekit.gates import METRICS, check_measured, judge, parse, require, shown


@pytest.mark.parametrize(
    ("text", "metric", "bound", "good", "bad"),
    [
        ("f1 >= 0.85", "f1", 0.85, 0.85, 0.8499), ("f1_drop <= 0.01", "f1_drop", 0.01, 0.01, 0.0101),
        ("kld <= 0.02", "kld", 0.02, 0.02, 0.021), ("flips <= 0.03", "flips", 0.03, 0.0, 0.031),
        ("size <= 2GB", "size", 2e9, 2_000_000_000, 2_000_000_001), ("decode_tps >= 10", "decode_tps", 10, 10, 9.9),
        ("flips<=3%", "flips", 0.03, 0.03, 0.04), ("  size < 1.5 GiB ", "size", 1.5 * 2**30, 1, 1.5 * 2**30),
        ("size <= 512", "size", 512, 512, 513), ("ppl_ratio < 1.05", "ppl_ratio", 1.05, 1.0, 1.05),
        ("f1 ≥ .5", "f1", 0.5, 0.5, 0.4), ("kld ≤ 2e-2", "kld", 0.02, 0.01, 0.03), ("exact > 50 %", "exact", 0.5, 0.51, 0.5),
        ("f1_drop <= -0.01", "f1_drop", -0.01, -0.02, 0.0), ("memory <= 100MiB", "memory", 100 * 2**20, 1, 1e9),
    ],
)  # fmt: skip
def test_what_passes(text: str, metric: str, bound: float, good: float, bad: float) -> None:
    gate = parse(text)
    assert (gate.metric, gate.text) == (metric, text.strip()) and gate.bound == pytest.approx(bound)
    assert gate.passes(good) and not gate.passes(bad)
    assert not gate.passes(math.nan) and not gate.passes(math.inf) and not gate.passes(-math.inf)
    assert [one.passed for one in judge([gate], {metric: good})] == [True]
    missing = judge([gate], {})[0]
    assert (missing.passed, missing.value) == (False, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "can't read"), ("f1", "can't read"), ("f1 >=", "can't read"), ("f1 = 1", "can't read"),
        ("f1 >= 0.85 or so", "can't read"), ("0.85 <= f1", "can't read"), ("f1 >= 0.8 >= 1", "can't read"),
        ("f1 >= nan", "can't read"), ("f1 >= 1e999", "out of range"), ("f1 >= 0x10", "can't read"), ("f1 >= 2GB", "unit"),
        ("size <= 2%", "unit"), ("size <= 2gb", "unit"), ("kld <= 2%", "no unit"), ("decode_tps >= 10 tok", "no unit"),
        ("flip <= 0.8", "did you mean flips"), ("speed >= 3", "a gate on something that isn't measured"), ("F1 >= 0.8", "did you mean f1?"),
    ],
)  # fmt: skip
def test_what_can_not_be_read(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert said in str(caught.value)


@given(st.text(max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    try:
        gate = parse(text)
    except InputError:
        return
    assert gate.metric in METRICS and math.isfinite(gate.bound)


@pytest.mark.parametrize(
    ("text", "given", "said"),
    [
        ("f1 >= 0.8", {"text", "reference", "speed"}, "f1 takes a task"), ("kld <= 1", {"text"}, "kld takes a reference"),
        ("kld <= 1", {"task"}, "kld takes a text and a reference"), ("flips <= 1", {"task"}, "pass --reference"),
        ("decode_tps >= 1", {"text"}, "leave out --no-speed"), ("ppl <= 9", {"task"}, "pass --text"),
    ],
)  # fmt: skip
def test_a_gate_on_what_is_not_measured(text: str, given: set[str], said: str) -> None:
    with pytest.raises(InputError, match="the gate can't be judged") as caught:
        check_measured([parse("size <= 1GB"), parse(text)], given)
    assert said in str(caught.value)
    check_measured([parse(text)], {"text", "reference", "task", "speed"})


def test_what_failed_is_named() -> None:
    gates = [parse("f1 >= 0.9"), parse("size <= 2MB"), parse("kld <= 0.02")]
    verdicts = {
        "good": judge(gates, {"f1": 0.95, "size": 1, "kld": 0.0}),
        "bad": judge(gates, {"f1": 0.8, "size": 2_500_000}),
    }
    require({"good": verdicts["good"]})
    require({})
    with pytest.raises(GateError, match="3 gates failed") as caught:
        require(verdicts)
    assert caught.value.found == (
        "bad: f1 >= 0.9, measured 0.8000; bad: size <= 2MB, measured 2.50MB; bad: kld <= 0.02, not measured"
    )


def test_figures_are_shown_in_the_units_of_gates() -> None:
    assert [shown("size", value) for value in (999, 2.5e3, 7.95e6, 2e9)] == [
        "999B",
        "2.50kB",
        "7.95MB",
        "2.00GB",
    ]
    assert (shown("flips", 0.034), shown("kld", 0.0123456789)) == ("0.0340", "0.0123457")
