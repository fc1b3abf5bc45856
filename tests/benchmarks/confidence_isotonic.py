"""Isotonic regression beside the fitted map: field log loss on the test file, by the number of labelled records.

python -m tests.benchmarks.confidence_isotonic --data FOLDER, after tests.benchmarks.confidence, whose traces it reads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.isotonic import IsotonicRegression

from edgekit import calibration
from edgekit.calibration import Judged
from edgekit.calibration_error import Vector
from edgekit.confidence_map import ConfidenceMap, FittedFor, fitted_for
from tests.benchmarks.confidence import ROOT, bundles, judged
from tests.benchmarks.report import table

SIZES = (50, 100, 300, 1000)
DRAWS = 8


def raw(records: list[Judged]) -> Vector:
    """The probability of every field's value, uncalibrated."""
    return np.array([chance for record in records for chance in record.answer.raw()[0].values()])


def right(records: list[Judged]) -> Vector:
    """Whether each is right."""
    return np.array([float(ok) for record in records for ok in record.leaves])


def stated(fitted: ConfidenceMap, records: list[Judged]) -> Vector:
    """What a map says of every field."""
    return np.array([chance for record in records for chance in fitted.apply(record.answer)[0].values()])


def isotonic(chances: Vector, outcomes: Vector, fresh: Vector, cases: int) -> Vector:
    """Pooled isotonic regression, bounded as the map's curves are."""
    least = 1 / (cases + 2)
    peer = IsotonicRegression(out_of_bounds="clip").fit(chances, outcomes)
    found: Vector = np.clip(peer.predict(fresh), least, 1 - least)
    return found


def losses(dev: list[Judged], test: list[Judged], target: FittedFor) -> list[float]:
    """Mean negative log-likelihood on ``test``: isotonic, the map, the map with isotonic regression after it."""
    ours = stated(calibration.fit(dev, target), test)
    unseen = calibration.cross_fit(dev, target)  # its own fit would flatter it
    answers = (
        isotonic(raw(dev), right(dev), raw(test), len(dev)),
        ours,
        isotonic(unseen.leaf_after, unseen.leaf_right, ours, len(dev)),
    )
    truth = right(test)
    return [float(-np.log(np.where(truth == 1, answer, 1 - answer)).mean()) for answer in answers]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "confidence")
    chosen = parser.parse_args()
    bundle = bundles(chosen.work, chosen.data)["restaurant-q8_0"]
    tasks = chosen.data / "tasks" / "restaurant"
    dev, test = (judged(chosen.work, bundle, tasks / f"{name}.jsonl", 0) for name in ("dev", "test"))
    rows = []
    for size in SIZES:
        drawn = []
        for seed in range(DRAWS if size < len(dev) else 1):
            order = np.random.default_rng(seed).permutation(len(dev))[:size]
            drawn.append(losses([dev[index] for index in order], test, fitted_for(bundle.manifest)))
        rows.append([f"{size:,}", *(f"{loss:.4f}" for loss in np.mean(drawn, axis=0))])
    print(table(["labelled records", "isotonic on the probability", "this", "this, then isotonic"], rows))


if __name__ == "__main__":
    main()
