"""edgekit build with gates, as a user types it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekit import evidence
from edgekit.bundle import Bundle
from edgekit.cli.build import command
from edgekit.errors import GateError, InputError
from tests.cli.test_commands import edgekit
from tests.evaluation.conftest import PROMPT, SCHEMA, TEXT, write_task
from tests.models import write_llama

SURE, NEVER = ("--gate", "kld <= 100"), ("--gate", "kld <= 1e-12")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all tests here, and none of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield


@pytest.fixture
def task(tmp_path: Path) -> list[str]:
    return ["--task", str(write_task(tmp_path / "task.jsonl", 6))]


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """A base with all that its bundles are measured on."""
    base = write_llama(tmp_path / "base")
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "prompt.txt").write_text(PROMPT)
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    given = {
        "text": "text.txt",
        "prompt": "prompt.txt",
        "schema": "schema.json",
        "out": "out",
    }
    pairs = [(f"--{name}", str(tmp_path / file)) for name, file in given.items()]
    return [
        str(base),
        "--name",
        "tiny",
        *(word for pair in pairs for word in pair),
        "--ctx",
        "64",
        "--chunks",
        "2",
    ]


def run(*arguments: str, color: bool = False) -> Result:
    return CliRunner().invoke(command, list(arguments), color=color)


def test_what_fails_is_shown_told_and_not_published(
    inputs: list[str], task: list[str], tmp_path: Path
) -> None:
    said = edgekit(
        "build", *inputs, *task, "-o", "out", "--quant", "Q8_0", "--quant", "F16", *SURE, "--gate", "kld <= 1e-10",
        code=3, cwd=tmp_path,
    )  # fmt: skip
    assert re.search(r"^bundle +quantization +artifact +memory +KLD +F1 +flips +gates *$", said, re.MULTILINE)
    assert re.search(r"tiny-q8_0 .*FAILED *$", said, re.MULTILINE) and re.search(
        r"tiny-f16 .*passed *$", said, re.MULTILINE
    )
    assert (
        "FAILED  tiny-q8_0: kld <= 1e-10, measured" in said
        and "passed  tiny-f16: kld <= 1e-10, measured 0" in said
    )
    assert "not published: " in said and "tiny-q8_0.failed.json" in said and "try: edgekit run" in said
    assert "error: 1 gate failed\n  found: tiny-q8_0: kld <= 1e-10, measured" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["tiny-f16", "tiny-q8_0.failed.json"]
    for stage in ("quantizing", "reading 2 chunks, reference + tiny-q8_0 + tiny-f16", "answering 6 records"):
        assert stage in said


def test_a_row_that_failed_is_red(inputs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    found = run(*inputs, "--quant", "Q8_0", *NEVER, color=True)
    assert isinstance(found.exception, GateError)
    assert re.search(r"\x1b\[31m[^\n]*tiny-q8_0", found.output) and "FAILED" in found.output


def test_json_has_all_of_it(inputs: list[str], task: list[str]) -> None:
    found = run(
        *inputs, *task, "--quant", "Q8_0", "--quant", "Q4_0", *SURE, "--gate", "size <= 100kB", "--json"
    )
    assert isinstance(found.exception, GateError)
    large, small = json.loads(found.stdout)
    bar = {
        "gate": "size <= 100kB",
        "measured": large["size"],
        "passed": large["size"] <= 100_000,
        "held": None,
    }
    assert large["gates"][1] == bar and [large["published"], small["published"]] == [bar["passed"], True]
    assert not bar["passed"] and small["speed"] is None
    manifest = Bundle.open(small["bundle"]).manifest
    assert small["quality"] == manifest.quality and manifest.quality is not None
    assert small["quality"]["task"]["name"] == "task.jsonl" and evidence.of(manifest) is not None


def test_smallest(inputs: list[str], tmp_path: Path) -> None:
    found = run(*inputs, "--quant", "smallest", *SURE)
    assert found.exit_code == 0, found.output
    assert "tried for tiny-smallest" in found.stdout and "at worst" in found.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny-smallest"]
    found = run(*inputs, "--quant", "smallest", "--gate", "size <= 1GB", "--force")
    assert isinstance(found.exception, InputError) and "a gate besides size" in str(found.exception)


def project(tmp_path: Path) -> Path:
    path = tmp_path / "edgekit.toml"
    lines = [
        'name = "tiny"\nbase = "base"\nquantizations = ["Q8_0"]\n[prompt]\nfile = "prompt.txt"\nschema = "schema.json"',
        '[evaluation]\ntext = "text.txt"\nctx = 64\nchunks = 2\ngates = ["kld <= 100"]',
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_project_and_further_gates(inputs: list[str], tmp_path: Path) -> None:
    path = str(project(tmp_path))
    found = run("--project", path, "--json", "--gate", "ppl_ratio <= 9")
    assert found.exit_code == 0, found.output
    (one,) = json.loads(found.stdout)
    assert [gate["gate"] for gate in one["gates"]] == ["kld <= 100", "ppl_ratio <= 9"]
    cached = ["--project", path, "--cache-dir", str(tmp_path / "kept"), "--force"]
    found = run(*cached, *NEVER)
    assert isinstance(found.exception, GateError) and re.search(r"FAILED +failed +[0-9a-f]{16}", found.stdout)
    assert "built" in run(*cached).stdout and "unchanged" in run(*cached).stdout
    found = run("--project", path, "--task", str(tmp_path / "text.txt"), "--force")
    assert isinstance(found.exception, InputError) and "line 1: not readable as JSON" in str(found.exception)


def test_a_gate_that_cannot_be_judged(inputs: list[str], tmp_path: Path) -> None:
    found = run(str(tmp_path / "base"), "--gate", "f1 >= 0.8", "-o", str(tmp_path / "out"))
    assert isinstance(found.exception, InputError) and "f1 takes a task" in str(found.exception)
    assert not (tmp_path / "out").exists()
    found = run("--intended-use", "tea", "--project", str(project(tmp_path)))
    assert found.exit_code == 2 and "--intended-use goes with a BASE" in found.output


def test_killed_while_it_measures(inputs: list[str], tmp_path: Path) -> None:
    """Ctrl-C while bundles are measured: exit code 130, and an empty folder."""
    (tmp_path / "text.txt").write_text(TEXT * 400)
    command = [sys.executable, "-m", "edgekit", "build", *inputs[:-2], "--quant", "Q8_0", *SURE]
    # Whoever runs the tests may ignore the signal, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("reading"))
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130 and rest.endswith("interrupted\n"), rest
    assert list((tmp_path / "out").iterdir()) == []
