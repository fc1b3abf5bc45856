"""edgekit bench: what it measures is whole, what it keeps corrects predictions, and what goes wrong has a name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit import bench, results
from edgekit.bench import Plan
from edgekit.errors import BundleError, HardwareError, InputError
from edgekit.profiles.choice import RuntimeChoice
from edgekit.progress import Progress
from tests.profiles.test_recorded_choices import RECORDINGS


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and nobody else at work."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bench, "others_at_work", lambda: 0.0)


def plan(path: Path, **more: Any) -> Plan:
    given = {"prompt_tokens": 12, "gen_tokens": 4, "repetitions": 2, "concurrency": (1,), **more}
    return Plan(path=path, **given)


def test_a_row_for_each_setting(bundles: Path) -> None:
    report = bench.bench(plan(bundles / "restaurant-q8_0", threads=(1, 2), concurrency=(1, 2)))
    assert [(row.threads, row.concurrency) for row in report.rows] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    for row in report.rows:
        for spread in (row.prompt, row.decode, row.first_token):
            assert 0 < spread.least <= spread.median <= spread.most
        assert row.load_seconds > 0 and (row.peak_rss or 0) > 20e6
        assert (row.bandwidth_share is None) == (
            row.concurrency > 1 or report.hardware.memory.bandwidth is None
        )


def test_what_is_measured_corrects_the_next_prediction(bundles: Path) -> None:
    first = bench.bench(plan(bundles / "restaurant-q8_0"))
    row = first.picked
    assert first.kept and row is not None
    kept = results.results(first.hardware, first.artifact)
    assert kept is not None and kept.decode_tps == row.decode.median
    second = bench.bench(plan(bundles / "restaurant-q8_0"))
    assert second.choice.decode_tps == pytest.approx(row.decode.median)
    assert first.choice.decode_tps != second.choice.decode_tps


def test_a_busy_machines_result_isnt_kept(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "others_at_work", lambda: 0.9)
    report = bench.bench(plan(bundles / "restaurant-q8_0"))
    assert not report.kept and report.busy == 0.9
    assert results.results(report.hardware, report.artifact) is None


def test_another_setting_than_the_picked_isnt_kept(bundles: Path) -> None:
    report = bench.bench(plan(bundles / "restaurant-q8_0", concurrency=(2,)))
    assert report.picked is None and not report.kept


def test_tuned_threads_are_remembered(bundles: Path) -> None:
    report = bench.bench(plan(bundles / "restaurant-q8_0", tune=True))
    assert 1 in report.tuned and report.choice.threads in report.tuned
    kept = results.results(report.hardware, report.artifact)
    assert kept is not None and kept.tuned and kept.threads == report.choice.threads


def test_a_winner_has_to_be_faster() -> None:
    assert bench._winner({1: 10.0, 2: 20.0, 4: 20.1}, picked=2) == 2
    assert bench._winner({1: 10.0, 2: 20.0, 4: 30.0}, picked=2) == 4
    assert bench._winner({1: 30.0, 2: 30.1, 4: 10.0}, picked=4) == 1


def test_what_isnt_there(tmp_path: Path) -> None:
    with pytest.raises((InputError, BundleError), match="nothing"):
        bench.bench(plan(tmp_path / "none.gguf"))


@pytest.mark.parametrize("name", ["prompt_tokens", "gen_tokens", "repetitions", "threads", "concurrency"])
def test_impossible_settings(name: str) -> None:
    zero = (0,) if name in {"threads", "concurrency"} else 0
    with pytest.raises(InputError, match=f"{name} is out of range"):
        plan(Path("x"), **{name: zero})


def test_a_measuring_process_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\ncat > /dev/null\necho out of luck >&2\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    job = bench._job(_choice(), plan(Path("x")), 1, 1)
    with pytest.raises(HardwareError, match="has died") as caught:
        bench.measure(job, Progress(), "")
    assert "out of luck" in str(caught.value)


def _choice() -> RuntimeChoice:
    from edgekit import here
    from edgekit.profiles.examples import TYPICAL
    from edgekit.profiles.pick import pick

    return pick(here.recorded(RECORDINGS / "xeon-2-cores-24gb.json"), [TYPICAL])[0]
