"""What this machine measured corrects what is predicted for it, for models like those that were measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit import choosing, here, results
from edgekit.profiles.choice import Artifact, Preferences
from edgekit.results import Result
from tests.profiles.models import EIGHT, ONE
from tests.profiles.test_recorded_choices import RECORDINGS

MACHINE = here.recorded(RECORDINGS / "epyc-two-sockets.json")
OTHER = here.recorded(RECORDINGS / "xeon-2-cores-24gb.json")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgekit" / results.FILE


def result(measured: float, predicted: float | None = 10.0, *, tuned: bool = False) -> Result:
    return Result(
        threads=3,
        n_gpu_layers=0,
        decode_tps=measured,
        prompt_tps=2 * measured,
        predicted_decode_tps=predicted,
        predicted_prompt_tps=predicted and 4 * predicted,
        tuned=tuned,
    )


def sized(artifact: Artifact, factor: float) -> Artifact:
    return replace(
        artifact, shape=replace(artifact.shape, weight_bytes=int(artifact.shape.weight_bytes * factor))
    )


def test_predictions_are_corrected_by_the_median_of_the_last() -> None:
    plain = choosing.choose_among([EIGHT], MACHINE)[0]
    for measured in (99.0, 7.0, 8.0, 30.0, 9.0, 8.5):  # the first has gone by then
        assert results.keep(MACHINE, EIGHT, result(measured))
    assert results.kin(MACHINE, EIGHT) == pytest.approx((0.85, 0.425))
    corrected = choosing.choose_among([EIGHT], MACHINE)[0]
    assert plain.decode_tps and plain.prompt_tps
    assert corrected.decode_tps == pytest.approx(0.85 * plain.decode_tps)
    assert corrected.prompt_tps == pytest.approx(0.425 * plain.prompt_tps)
    assert choosing.choose_among([EIGHT], OTHER)[0].decode_tps == pytest.approx(
        choosing.uncorrected([EIGHT], OTHER, Preferences())[0].decode_tps
    )


def test_the_nearest_model_of_the_same_quantization_counts() -> None:
    results.keep(MACHINE, sized(EIGHT, 0.3), result(5.0))
    results.keep(MACHINE, sized(EIGHT, 1.2), result(8.0))
    results.keep(MACHINE, replace(EIGHT, quantization="Q8_0"), result(1.0))
    assert results.kin(MACHINE, EIGHT) == pytest.approx((0.8, 0.4))
    assert results.kin(MACHINE, sized(EIGHT, 50.0)) is None
    assert results.kin(MACHINE, replace(EIGHT, quantization="Q2_K")) is None


def test_a_result_without_a_prediction_corrects_nothing() -> None:
    results.keep(MACHINE, ONE, result(5.0, None))
    assert results.kin(MACHINE, ONE) is None
    found = results.results(MACHINE, ONE)
    assert found is not None and found.decode_tps == 5.0


def test_tuned_threads_are_taken() -> None:
    results.keep(MACHINE, ONE, result(5.0))
    assert choosing.choose_among([ONE], MACHINE)[0].threads != 3
    results.keep(MACHINE, ONE, result(5.0, tuned=True))
    assert choosing.choose_among([ONE], MACHINE)[0].threads == 3


@pytest.mark.parametrize("found", ["", "[]", '{"a": 1}', '{"%s": {"%s": {"threads": "x"}}}'])
def test_a_garbled_file_is_empty(cache: Path, found: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(
        found.replace("%s", results.machine_key(MACHINE), 1).replace("%s", results.model_key(ONE), 1)
    )
    assert results.results(MACHINE, ONE) is None and results.kin(MACHINE, ONE) is None
    assert results.keep(MACHINE, ONE, result(5.0)) and results.kin(MACHINE, ONE) is not None


def test_the_oldest_models_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "LIMIT", 2)
    for factor in (1, 2, 3):
        results.keep(MACHINE, sized(ONE, factor), result(5.0))
    assert results.results(MACHINE, ONE) is None
    assert results.results(MACHINE, sized(ONE, 2)) and results.results(MACHINE, sized(ONE, 3))
