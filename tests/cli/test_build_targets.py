"""edgekit build for devices, as a user types it: from arguments, and from a project file."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.test_commands import edgekit
from tests.conftest import ADAPTER, BASE

PROJECT = """\
name = "restaurant"
base = "{base}"
[[adapters]]
path = "{adapter}"
[targets.laptop-8gb]
quantizations = ["Q4_0"]
[targets.gateway]
extends = "raspberry-pi-4-4gb"
"""


def test_arguments(tmp_path: Path) -> None:
    shown = edgekit(
        "build", BASE, "--adapter", ADAPTER, "--name", "r", "--target", "laptop-8gb", "--quant", "Q4_0",
        "-o", tmp_path / "dist",
    )  # fmt: skip
    assert "r-laptop-8gb" in shown and "at 1,024" in shown and "r-q4_0" in shown
    assert "laptop-8gb" in edgekit("inspect", tmp_path / "dist" / "r-laptop-8gb")
    error = edgekit("build", BASE, "--target", "laptop-9gb", "-o", tmp_path / "dist", code=1)
    assert "laptop-8gb" in error


def test_a_project(tmp_path: Path) -> None:
    (tmp_path / "edgekit.toml").write_text(PROJECT.format(base=BASE, adapter=ADAPTER))
    built = json.loads(edgekit("build", "--json", cwd=tmp_path))
    assert [(one["target"], one["quantization"]) for one in built] == [
        ("laptop-8gb", "Q4_0"),
        ("gateway", "Q8_0"),
    ]
    only = json.loads(edgekit("build", "--target", "gateway", "-o", "other", "--json", cwd=tmp_path))
    assert [one["bundle"] for one in only] == ["other/restaurant-gateway"]
