"""Every example runs, with the public API only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_extract_bookings(bundles: Path) -> None:
    script = ROOT / "examples" / "extract_bookings.py"
    done = subprocess.run(
        [sys.executable, script, bundles / "restaurant-q8_0"], capture_output=True, text=True, check=True
    )
    assert "'people': 'six'" in done.stdout and "'people': '2 adults'" in done.stdout


def test_examples_use_the_public_api_only() -> None:
    for script in (ROOT / "examples").glob("*.py"):
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("edgekit.")
