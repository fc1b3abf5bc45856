"""The CI examples: the workflow's own steps are run here as a runner would, and the shell script is, twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

HERE = ROOT / "examples" / "ci"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with the example's project file, its paths made to fit."""
    text = (HERE / "edgekit.toml").read_text().replace("../restaurant", str(ROOT / "examples" / "restaurant"))
    (tmp_path / "edgekit.toml").write_text(text)
    return tmp_path


def sh(script: str, cwd: Path, **variables: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-euc", script],
        check=False,
        cwd=cwd,
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def workflow() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    found: dict[str, Any] = yaml.safe_load((HERE / "edgekit.yml").read_text())
    return found


def runs(job: dict[str, Any], values: dict[str, str]) -> list[str]:
    """The commands of a job's steps, without those that install what is installed here."""
    found = [step["run"] for step in job["steps"] if "run" in step and not step["run"].startswith("pip ")]
    for name, value in values.items():
        found = [run.replace(f"${{{{ matrix.{name} }}}}", value) for run in found]
    assert not any("${{" in run for run in found)
    return found


def test_the_workflow(project: Path) -> None:
    jobs = workflow()["jobs"]
    output = project / "output"
    for run in runs(jobs["plan"], {}):
        sh(run, project, GITHUB_OUTPUT=str(output))
    name, _, value = output.read_text().partition("=")
    entries = json.loads(value)["include"]
    assert jobs["plan"]["outputs"][name] == "${{ steps.matrix.outputs.matrix }}"
    assert jobs["build"]["strategy"]["matrix"] == "${{ fromJSON(needs.plan.outputs.matrix) }}"
    assert [entry["target"] for entry in entries] == ["", "laptop-8gb", "raspberry-pi-4-4gb"]
    assert len({entry["cache_key"] for entry in entries}) == 3
    cached = next(
        step["with"] for step in jobs["build"]["steps"] if step.get("uses", "").startswith("actions/cache@")
    )
    for entry in entries:
        for run in runs(jobs["build"], entry):
            sh(run, project)
        manifest = json.loads((project / "dist" / entry["name"] / "manifest.json").read_text())
        assert ((manifest["target"] or {}).get("name") or "") == entry["target"]
        key = cached["key"].replace("${{ matrix.cache_key }}", entry["cache_key"]).rpartition("-")[2]
        assert (project / cached["path"] / "bundles" / key / "manifest.json").is_file()


def test_the_shell_script(project: Path) -> None:
    first = sh(str(HERE / "build.sh"), project)
    assert first.count(" built ") == 3 and "restaurant-laptop-8gb" in first
    again = sh(str(HERE / "build.sh"), project)
    assert again.count(" unchanged ") == 3 and " built " not in again
