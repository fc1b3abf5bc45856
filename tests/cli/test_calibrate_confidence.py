"""edgekit calibrate-confidence as a user types it, with the real small model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgekit.bundle import Bundle
from edgekit.confidence_map import load_confidence
from tests.cli.test_commands import edgekit
from tests.conftest import ROOT

TASK = ROOT / "examples" / "restaurant" / "task" / "test.jsonl"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 labelled utterances of the example."""
    path = tmp_path_factory.mktemp("task") / "labelled.jsonl"
    path.write_text("".join(TASK.read_text().splitlines(keepends=True)[:80]))
    return path


def test_calibrate_and_inspect(bundles: Path, task: Path, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(bundles / "restaurant-q4_k_m", folder)
    assert "not calibrated" in edgekit("inspect", folder)
    assert json.loads(edgekit("inspect", folder, "--json"))["confidence"] is None

    printed = edgekit("calibrate-confidence", folder, "--task", task, "--threads", "1")
    for word in (
        "people",
        "last_name",
        "all fields",
        "records",
        "ECE before",
        "most confident",
        "80%",
        "fitted on all",
    ):
        assert word in printed
    assert "all digests match" in edgekit("verify", folder)
    assert "calibrated on 80 records" in edgekit("inspect", folder)
    figures = json.loads(edgekit("inspect", folder, "--json"))["confidence"]
    assert load_confidence(Bundle.open(folder)) is not None
    before = (folder / "confidence.json").read_bytes(), (folder / "manifest.json").read_bytes()

    again = json.loads(edgekit("calibrate-confidence", folder, "--task", task, "--threads", "1", "--json"))
    assert {name: again[name] for name in figures} == figures and again["counter"] == 1
    assert ((folder / "confidence.json").read_bytes(), (folder / "manifest.json").read_bytes()) == before


def test_what_is_refused(bundles: Path, task: Path, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(bundles / "restaurant-q4_k_m", folder)
    (tmp_path / "other.jsonl").write_text('{"id": "1", "text": "x", "expected": {"category": "Postage"}}\n')
    run = ("calibrate-confidence", folder, "--task")
    assert "line 1" in edgekit(*run, tmp_path / "other.jsonl", code=1)
    assert "missing" in edgekit(*run, tmp_path / "nothing.jsonl", code=1)
    assert "--folds" in edgekit(*run, task, "--folds", "1", code=2)
    assert "--task" in edgekit("calibrate-confidence", folder, code=2)
    assert "not a bundle" in edgekit("calibrate-confidence", tmp_path, "--task", task, code=1)
    (folder / "signature.json").write_text("{}")
    assert "--drop-signature" in edgekit(*run, task, code=1)
    assert load_confidence(Bundle.open(folder)) is None
