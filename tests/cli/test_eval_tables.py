"""The tables of an evaluation, of figures made up here."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.cli.eval_tables import show
from edgekit.cli.output import PIPE_WIDTH
from edgekit.evaluate import Evaluation, Plan, Row
from edgekit.evaluation.figures import Answer
from edgekit.evaluation.tasks import measure
from edgekit.labelled import Labelled

SCHEMA = {"properties": {name: {"type": "string"} for name in ("people", "date", "first_name")}}


def row(label: str) -> Row:
    records = [Labelled("r", "text", {"people": "2", "date": "today", "first_name": "Ann"})]
    found = measure(records, [Answer({"people": "2", "date": "tomorrow"})], SCHEMA)
    return Row(label, label, "Q4_0", 1000, "0" * 64, task=found)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_tables_of_many_models_do_not_fold(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [f"restaurant-q{at}_k_m" for at in range(count - 1)] + ["a-bundle-of-a-name-that-is-rather-long"]
    plan = Plan((Path("x"),), task=Path("t"))
    show(Evaluation(plan, [row(one) for one in labels], None, {one: [] for one in labels}))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= PIPE_WIDTH
    headers = [line.split()[3:] for line in lines if line.startswith("F1 (precision, recall)")]
    assert [label for header in headers for label in header] == labels
    assert [line.split().count("(0.500,") for line in lines if line.startswith("together")] == list(
        map(len, headers)
    )
