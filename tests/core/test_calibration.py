"""Fitting: recovers what synthetic data were drawn from, agrees with scikit-learn, is the same on every run."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import calibration, logistic
from edgekit.calibration import Judged, cross_fit, fit, fold_of, outcomes, reliability
from edgekit.calibration_error import Vector, bins, calibration_error, figures, risk_coverage, risks
from edgekit.confidence import Answer, Evidence
from edgekit.confidence_map import ConfidenceMap, FittedFor
from edgekit.errors import InputError

TARGET = FittedFor("m" * 64, "s" * 64, "p" * 64)
FIELDS = {"a": np.array([1.0, 0.5, 0.3, 0.5, -2.0]), "b": np.array([-1.0, 0.9, 0.1, 0.0, -1.0])}


def drawn(count: int, seed: int = 0) -> list[Judged]:
    """Records of two fields, each right with a chance that its evidence gives by ``FIELDS``."""
    random = np.random.default_rng(seed)
    records = []
    for index in range(count):
        leaves, right = [], []
        for name, weights in FIELDS.items():
            logprob, margin = -float(random.exponential(0.5)), float(random.exponential(2))
            leaf = Evidence(name, logprob, margin, bool(random.random() < 0.3), bool(random.random() < 0.1))
            leaves.append(leaf)
            right.append(bool(random.random() < chance(leaf.features(), weights)))
        answer = Answer(leaves, 0.0, sum(leaf.logprob for leaf in leaves))
        records.append(Judged(f"r{seed}-{index}", answer, tuple(right), all(right)))
    return records


def chance(features: tuple[float, ...], weights: Vector) -> float:
    return 1 / (1 + math.exp(-float(np.dot(features, weights))))


def test_a_fit_recovers_the_chances_it_was_drawn_from() -> None:
    fitted, fresh = fit(drawn(4000), TARGET), drawn(4000, seed=1)
    stated, true, overall = [], [], []
    for record in fresh:
        chances, whole = fitted.apply(record.answer)
        stated += list(chances.values())
        true += [chance(leaf.features(), FIELDS[leaf.path]) for leaf in record.answer.leaves]
        overall.append((whole, true[-1] * true[-2]))
    assert np.abs(np.subtract(stated, true)).mean() < 0.02
    assert np.abs(np.subtract(*np.array(overall).T)).mean() < 0.03
    found = outcomes(fresh, [fitted] * len(fresh))
    assert calibration_error(found.leaf_after, found.leaf_right) < 0.02
    assert calibration_error(found.after, found.right) < 0.03
    assert calibration_error(found.before, found.right) > 0.05  # and there was something to mend


def test_few_records_lean_on_the_prior() -> None:
    """With 50 records it's still near the truth, and a field with few cases shares the others' curve."""
    records = drawn(50)
    scarce = [
        replace(r, answer=r.answer._replace(leaves=r.answer.leaves[:1]), leaves=r.leaves[:1])
        if i >= 10
        else r
        for i, r in enumerate(records)
    ]
    fitted = fit(scarce, TARGET)
    assert set(fitted.fields) == {"a"} and fitted.pooled.cases == 60
    assert fitted.apply(records[0].answer)[0]["b"] == fitted.pooled.chance(
        records[0].answer.leaves[1].features()
    )


def test_items_of_an_array_are_one_field() -> None:
    def moved(record: Judged, index: int) -> Judged:
        leaves = [leaf._replace(path=f"items[{index}].{leaf.path}") for leaf in record.answer.leaves]
        return replace(record, answer=record.answer._replace(leaves=leaves))

    records = [moved(record, index) for index, record in enumerate(drawn(100))]
    fitted = fit(records, TARGET)
    assert set(fitted.fields) == {"items[].a", "items[].b"}
    assert list(fitted.apply(records[7].answer)[0]) == ["items[7].a", "items[7].b"]


def test_the_same_records_give_the_same_bytes() -> None:
    one, other = (msgspec.json.encode(fit(drawn(200), TARGET)) for _ in range(2))
    assert one == other
    assert one != msgspec.json.encode(fit(drawn(200, seed=3), TARGET))


def test_what_is_likelier_is_never_less_sure() -> None:
    """Even where the labels say the contrary, which would be noise."""
    perverse = [
        replace(
            r, leaves=tuple(leaf.logprob < -0.3 for leaf in r.answer.leaves), record=r.answer.logprob < -0.6
        )
        for r in drawn(300)
    ]
    for fitted in (fit(perverse, TARGET), fit(drawn(300), TARGET)):
        for name in ("a", "b", "unknown"):
            for null in (False, True):
                line = [
                    fitted.apply(Answer([Evidence(name, logprob, margin, null, False)], 0.0, logprob))
                    for logprob, margin in zip(
                        -np.geomspace(20, 1e-9, 50), np.linspace(-14, 14, 50), strict=True
                    )
                ]
                fields, overall = [one[0][name] for one in line], [one[1] for one in line]
                assert fields == sorted(fields) and overall == sorted(overall)


@given(
    logprob=st.floats(-1e9, 0), margin=st.floats(-14, 14), null=st.booleans(), unseen=st.booleans(),
    structure=st.floats(-1e9, 0), name=st.sampled_from(["a", "b", "z"]),
)  # fmt: skip
def test_confidence_stays_within_what_the_data_can_show(
    logprob: float, margin: float, null: bool, unseen: bool, structure: float, name: str
) -> None:
    fitted = FITTED
    fields, overall = fitted.apply(
        Answer([Evidence(name, logprob, margin, null, unseen)], structure, logprob)
    )
    cases = fitted.fields[name].cases if name in fitted.fields else fitted.pooled.cases
    assert 1 / (cases + 2) <= fields[name] <= 1 - 1 / (cases + 2)
    assert 1 / 202 <= overall <= 1 - 1 / 202


FITTED = fit(drawn(200), TARGET)


def test_too_little_to_fit_on() -> None:
    records = drawn(60)
    with pytest.raises(InputError, match="too few") as caught:
        fit(records[:49], TARGET)
    assert caught.value.expected == "50 or more"
    for outcome in (True, False):
        same = [replace(record, record=outcome) for record in records]
        with pytest.raises(InputError, match=f"all 60 records are {'right' if outcome else 'wrong'}"):
            fit(same, TARGET)
        with pytest.raises(InputError, match="nothing to tell apart"):
            cross_fit(same, TARGET)
    alike = [name for name in map(str, range(1000)) if fold_of(name, 5) == 2][:60]
    with pytest.raises(InputError, match="one fold"):
        cross_fit([replace(r, id=name) for r, name in zip(records, alike, strict=True)], TARGET)
    fit([replace(r, id=name) for r, name in zip(records, alike, strict=True)], TARGET)


def test_no_record_is_judged_by_a_map_that_saw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    records, seen = drawn(120), []
    real = calibration._fit

    def spy(fitted_on: list[Judged], target: FittedFor) -> ConfidenceMap:
        seen.append({record.id for record in fitted_on})
        return real(fitted_on, target)

    monkeypatch.setattr(calibration, "_fit", spy)
    cross_fit(records, TARGET, folds=4)
    assert len(seen) == 4
    held_out = [{record.id for record in records} - ids for ids in seen]
    assert sorted(id for ids in held_out for id in ids) == sorted(record.id for record in records)
    for ids in held_out:
        assert len({fold_of(record, 4) for record in ids}) == 1


def test_the_published_figures() -> None:
    records = drawn(400)
    found = reliability(cross_fit(records, TARGET), TARGET, failed=3, folds=5, task="t" * 64)
    assert (found.records, found.failed, found.all_fields.cases) == (400, 3, 800)
    assert set(found.fields) == {"a", "b"}
    assert found.overall.accuracy == pytest.approx(np.mean([record.record for record in records]), abs=1e-6)
    assert [risk.coverage for risk in found.risks] == [1.0, 0.95, 0.9, 0.8, 0.7]
    assert found.risks[0].risk == pytest.approx(1 - found.overall.accuracy, abs=2e-6)
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found


def test_calibration_error_by_hand() -> None:
    stated, right = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 1.0, 1.0, 1.0])
    assert [part.tolist() for part in bins(stated, 2)] == [[0, 1], [2, 3]]
    # equal width, 15 bins: each alone but 0.1 and 0.2, which are in bins 1 and 3
    assert calibration_error(stated, right, width=True) == pytest.approx((0.1 + 0.8 + 0.2 + 0.1) / 4)
    assert risk_coverage(stated, right).tolist() == [0, 0, 0, 1 / 4]
    first = risks(stated, right)[0]
    assert (first.coverage, first.risk, first.confidence) == (1.0, 0.25, 0.1)
    assert bins(np.array([0.0, 1.0]), 15, width=True)[-1].tolist() == [1]
    exact = figures(stated, np.array([0.0, 1.0, 1.0, 1.0]), right)
    assert (exact.mass_after, exact.width_after, exact.by_chance) == (0, 0, 0)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_bins_hold_every_case_once(cases: list[tuple[float, bool]]) -> None:
    stated, right = np.array(cases, float).T
    for width in (False, True):
        parts = bins(stated, width=width)
        assert sorted(index for part in parts for index in part) == list(range(len(cases)))
        assert 0 <= calibration_error(stated, right, width=width) <= 1


def test_the_fit_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    calibration_module = pytest.importorskip("sklearn.calibration")
    records = drawn(500)
    features = np.array([leaf.features() for r in records for leaf in r.answer.leaves], float)
    right = np.array([float(ok) for r in records for ok in r.leaves])
    ours = logistic.fit(features, right, np.zeros(5), np.full(5, 2.0))
    peer = linear_model.LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10, max_iter=10_000)
    peer.fit(features, right)
    assert ours == pytest.approx(peer.coef_[0], abs=1e-5)
    stated = logistic.probability(features @ ours)
    assert stated == pytest.approx(peer.predict_proba(features)[:, 1], abs=1e-6)
    share, mean = calibration_module.calibration_curve(right, stated, n_bins=15, strategy="uniform")
    edges = np.linspace(0, 1, 16)
    counts = np.histogram(stated, edges)[0]
    expected = float((counts[counts > 0] * np.abs(share - mean)).sum() / len(right))
    assert calibration_error(stated, right, width=True) == pytest.approx(expected)


def test_a_map_evaluates_as_numpy_does() -> None:
    records = drawn(100)
    for record in records:
        chances, _ = FITTED.apply(record.answer)
        for leaf in record.answer.leaves:
            curve = FITTED.fields[leaf.path]
            plain = float(logistic.probability(np.array([np.dot(curve.weights, leaf.features())]))[0])
            least = 1 / (curve.cases + 2)
            assert chances[leaf.path] == pytest.approx(min(max(plain, least), 1 - least))


def test_newton_copes_with_data_that_a_line_separates() -> None:
    features = np.array([[1.0, x] for x in np.linspace(-14, 14, 200)])
    right = (features[:, 1] > 0).astype(float)
    weights = logistic.fit(features, right, np.zeros(2), np.full(2, 1e-6), rising=(1,))
    assert np.isfinite(weights).all() and (logistic.probability(features @ weights).round() == right).all()
    falling = logistic.fit(features, 1 - right, np.array([0.0, 1.0]), np.full(2, 0.1), rising=(1,))
    assert falling[1] == 0
