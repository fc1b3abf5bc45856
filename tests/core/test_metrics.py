"""Field F1, by hand."""

from __future__ import annotations

import pytest

from edgekit.metrics import Record, score_fields


def test_micro_f1_by_hand() -> None:
    pairs: list[tuple[Record | None, Record]] = [
        ({"a": "1 ", "b": None}, {"a": "1"}),  # right after strip; null is absent
        ({"a": "2", "b": "x"}, {"a": "3", "b": "x"}),  # one wrong, one right
        ({"c": "extra"}, {"a": "4"}),  # one too many, one missing
        (None, {"a": "5"}),  # no record at all
    ]
    score = score_fields(pairs)
    assert score.precision == pytest.approx(2 / 4)
    assert score.recall == pytest.approx(2 / 5)
    assert score.f1 == pytest.approx(2 * 0.5 * 0.4 / 0.9)
    assert score.records_right == 1 / 4


def test_nothing_found_or_nothing_there() -> None:
    assert score_fields([(None, {"a": "1"})]).f1 == 0
    assert score_fields([]).records_right == 0
    assert score_fields([({}, {})]).records_right == 1
