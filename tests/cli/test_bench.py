"""edgekit bench as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import edgekit

SHORT = ("--prompt-tokens", "12", "--gen-tokens", "4", "--repetitions", "1")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_table(bundles: Path) -> None:
    shown = edgekit("bench", bundles / "restaurant-q8_0", *SHORT)
    assert "pp12 tok/s" in shown and "tg4 tok/s" in shown and "peak RSS" in shown
    assert "predicted" in shown and "measured" in shown and "memory" in shown


def test_json(bundles: Path) -> None:
    arguments = ("--threads", "1,2", "--concurrency", "1,2", "--json")
    found = json.loads(edgekit("bench", bundles / "restaurant-q8_0" / "model.gguf", *SHORT, *arguments))
    assert [(row["threads"], row["concurrency"]) for row in found["rows"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert found["quantization"] == "Q8_0" and found["choice"]["runtime"] == "llama.cpp"


def test_auto(bundles: Path) -> None:
    found = json.loads(edgekit("bench", bundles / "restaurant-q8_0", *SHORT, "--threads", "auto", "--json"))
    assert "1" in found["tuned"]


@pytest.mark.parametrize("wrong", ["0", "1,,2", "-1", "many", "513"])
def test_wrong_counts(bundles: Path, wrong: str) -> None:
    assert "from 1 to 512" in edgekit("bench", bundles / "restaurant-q8_0", f"--threads={wrong}", code=2)
