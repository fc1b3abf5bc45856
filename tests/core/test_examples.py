"""Every example runs, with the public API only; the service and the desktop tool have tests of their own beside."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit import Model
from edgekit.runtimes.fake import FakeEngine
from tests.conftest import ROOT
from tests.core.examples import SCHEMA, load_example

EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.py"))


def run(script: str, *arguments: object) -> str:
    """What an example prints."""
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_extract_bookings(bundles: Path) -> None:
    said = run("extract_bookings.py", bundles / "restaurant-q8_0")
    assert "'six'" in said and "'2 adults'" in said
    assert "empty: " in said and "too_long: " in said
    assert said.endswith("5 texts, 2 to review\n")


def test_extract_bookings_of_a_file(bundles: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a table for six\n\n")
    said = run("extract_bookings.py", bundles / "restaurant-q4_k_m", texts)
    assert said.endswith("2 texts, 1 to review\n")


def test_pool(bundles: Path) -> None:
    module = load_example("pool/pool.py")
    stream, *lines = run("pool/pool.py", bundles / "restaurant-q8_0").splitlines()
    assert stream.count("|") > 5 and "friday" in stream.replace("|", "")
    assert [line.partition(" -> ")[0] for line in lines] == list(module.TEXTS[:-1])
    assert "'people': '2 adults'" in lines[0] and "'first_name': 'Zoe'" in lines[1]


def test_the_pools_stream_is_whole_json() -> None:
    module = load_example("pool/pool.py")
    pieces: list[str] = []
    with Model(FakeEngine('{"people":"two"}', n_seq_max=8), prompt="{text}", schema=SCHEMA) as model:
        answer: Any = module.streamed(model, "x", pieces.append)
    assert json.loads(answer) == {"people": "two"} and "".join(pieces) == answer


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_examples_use_the_public_api_only(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not [name for name in names if name.startswith("edgekit.")]
        # Nor what is private to a class of edgekit's.
        assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr[1] != "_")
