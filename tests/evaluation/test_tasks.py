"""Figures of labelled records, against scikit-learn's and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit.evaluation.figures import NO_ANSWER, NULL, Answer
from edgekit.evaluation.labels import label_fields
from edgekit.evaluation.tasks import measure
from edgekit.labelled import Labelled
from edgekit.metrics import score_fields

KINDS = ["tea", "coffee", "milk", "water"]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": ["string", "null"]},
        "kind": {"enum": KINDS},
        "size": {"type": ["string", "null"]},
    },
}


def sample(count: int, seed: int) -> tuple[list[Labelled], list[Answer]]:
    """Records and answers that are right more often than not."""
    random = np.random.default_rng(seed)
    records, answers = [], []
    for at in range(count):
        expected = {
            "name": [None, "Ann", "Bo"][random.integers(3)],
            "kind": KINDS[random.integers(3)],
            "size": [None, "big"][random.integers(2)],
        }
        found = dict(expected)
        for name in expected:
            if random.random() < 0.3:
                found[name] = (
                    KINDS[random.integers(4)] if name == "kind" else [None, "Ann", "big"][random.integers(3)]
                )
        records.append(Labelled(f"r{at}", "text", expected))
        answers.append(Answer(None, "truncated") if random.random() < 0.1 else Answer(found))
    return records, answers


def test_labels_are_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    records, answers = sample(200, 0)
    found = measure(records, answers, SCHEMA).classes
    assert set(found) == {"kind"}
    one = found["kind"]
    wanted = [record.expected["kind"] for record in records]
    got = [NO_ANSWER if answer.data is None else answer.data["kind"] for answer in answers]
    assert one.labels == [*KINDS, NO_ANSWER]
    assert one.confusion == metrics.confusion_matrix(wanted, got, labels=one.labels).tolist()
    assert one.accuracy.value == pytest.approx(metrics.accuracy_score(wanted, got))
    assert one.accuracy.low < one.accuracy.value < one.accuracy.high
    parts = metrics.precision_recall_fscore_support(wanted, got, labels=KINDS, zero_division=0)
    for at, label in enumerate(KINDS):
        mine = one.by_label[label]
        assert (mine.precision, mine.recall, mine.f1) == pytest.approx([part[at] for part in parts[:3]])
        assert mine.expected == parts[3][at]
    assert one.f1_macro == pytest.approx(metrics.f1_score(wanted, got, labels=KINDS, average="macro"))


def test_fields_are_scikit_learns() -> None:
    """A field's value that is right is a true positive of a binary problem over (record, value) pairs."""
    metrics = pytest.importorskip("sklearn.metrics")
    records, answers = sample(300, 1)
    found = measure(records, answers, SCHEMA)
    shares, every = [], ([], [])  # type: ignore[var-annotated]
    for name in ("name", "kind", "size"):
        truth, guess = [], []
        for record, answer in zip(records, answers, strict=True):
            wanted, got = record.expected[name], answer.data and answer.data[name]
            for value in {wanted, got} - {None}:
                truth.append(value == wanted)
                guess.append(value == got)
        every[0].extend(truth)
        every[1].extend(guess)
        shares.append(metrics.precision_recall_fscore_support(truth, guess, average="binary")[:3])
        mine = found.fields[name]
        assert (mine.precision, mine.recall, mine.f1) == pytest.approx(shares[-1])
        assert mine.f1_interval and mine.f1_interval[0] < mine.f1 < mine.f1_interval[1]
    assert list(found.fields) == ["name", "kind", "size"]
    micro = metrics.precision_recall_fscore_support(*every, average="binary")[:3]
    assert (found.micro.precision, found.micro.recall, found.micro.f1) == pytest.approx(micro)
    macro = found.macro.precision, found.macro.recall, found.macro.f1.value
    assert macro == pytest.approx(np.mean(shares, 0))
    assert found.macro.f1.low < found.macro.f1.value < found.macro.f1.high
    score = score_fields([(answer.data, one.expected) for answer, one in zip(answers, records, strict=True)])
    assert (found.micro.f1, found.exact.value) == (score.f1, score.records_right)
    failed = sum(answer.data is None for answer in answers)
    assert found.failures == {"truncated": failed} and found.valid.value == 1 - failed / 300


def record(at: int, **expected: Any) -> Labelled:
    return Labelled(f"r{at}", "text", expected)


def test_flips_in_both_directions() -> None:
    records = [record(at, name="Ann", kind="tea") for at in range(6)]
    right, wrong, other = ({"name": "Ann", "kind": kind} for kind in ("tea", "milk", "coffee"))
    before = [Answer(one) for one in (right, right, wrong, wrong, wrong, None)]
    after = [Answer({"name": " Ann", "kind": "tea"}), Answer(wrong), Answer(right), Answer(other), Answer(None, "x"),
             Answer(None, "truncated")]  # fmt: skip
    flips = measure(records, after, SCHEMA, before).reference
    assert flips is not None
    assert [(one.id, one.kind) for one in flips.changes] == [
        ("r1", "lost"), ("r2", "gained"), ("r3", "other"), ("r4", "other"),
    ]  # fmt: skip
    assert flips.changes[0].reference == right and flips.changes[0].candidate == wrong
    assert (flips.lost, flips.gained, flips.other, flips.mcnemar) == (1, 1, 2, 1.0)
    assert flips.share.value == pytest.approx(4 / 6) and flips.share.low < 4 / 6 < flips.share.high
    assert flips.exact_drop.value == 0
    # Before: 7 of 10 found are right, 12 expected; after: 6 of 8.
    assert flips.f1_drop.value == pytest.approx(2 * 7 / 22 - 2 * 6 / 20)


def test_a_model_against_itself_and_a_worse_one() -> None:
    records, answers = sample(150, 2)
    same = measure(records, answers, SCHEMA, answers).reference
    assert same is not None and not same.changes
    assert (same.f1_drop.value, same.f1_drop.p, same.mcnemar, same.share.high) == (0, 1, 1, 0)
    perfect = [Answer(one.expected) for one in records]
    worse = measure(records, answers, SCHEMA, perfect).reference
    assert worse is not None and worse.gained == worse.other == 0 and worse.lost == len(worse.changes)
    assert worse.f1_drop.low > 0 and worse.f1_drop.p < 0.002 and worse.mcnemar < 1e-6
    assert worse.exact_drop.value == pytest.approx(worse.lost / 150)


def test_nothing_expected_and_nothing_found() -> None:
    found = measure([record(0), record(1)], [Answer({}), Answer({})], {})
    assert found.exact.value == 1 and not found.fields and found.macro.f1.value == found.micro.f1 == 0


def test_a_missing_label_is_a_label() -> None:
    schema = {"properties": {"kind": {"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]}}}
    records = [record(0, kind=None), record(1, kind="a"), record(2)]
    one = measure(records, [Answer({"kind": "a"}), Answer({"kind": None}), Answer({})], schema).classes[
        "kind"
    ]
    assert one.labels == ["a", "b", NULL]
    assert one.confusion == [[0, 0, 1], [0, 0, 0], [1, 0, 1]]


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ({"enum": ["a", "b"]}, ["a", "b"]), ({"enum": ["a", "b", None]}, ["a", "b"]), ({"enum": ["a", None]}, []),
        ({"type": "boolean"}, [True, False]), ({"type": ["boolean", "null"]}, [True, False]),
        ({"$ref": "#/$defs/Kind"}, ["x", "y"]), ({"anyOf": [{"$ref": "#/$defs/Kind"}, {"type": "null"}]}, ["x", "y"]),
        ({"anyOf": [{"enum": [1, 2]}, {"enum": [3, 4]}]}, []), ({"type": "string"}, []), ({"$ref": "#/$defs/None"}, []),
        (True, []),
    ],
)  # fmt: skip
def test_which_fields_take_labels(kind: Any, labels: list[Any]) -> None:
    schema = {"properties": {"f": kind}, "$defs": {"Kind": {"enum": ["x", "y"]}}}
    assert label_fields(schema) == ({"f": labels} if labels else {})
    assert label_fields({"type": "array"}) == {}


def test_a_reference_into_itself_ends() -> None:
    loop = {"$ref": "#/$defs/Loop"}
    schema = {"properties": {"f": loop}, "$defs": {"Loop": {"anyOf": [loop, {"type": "null"}]}}}
    assert label_fields(schema) == {}
