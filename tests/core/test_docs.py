"""The code on the page for applications runs, in order, in one namespace, and prints what the page shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import ROOT

PAGE: Final = ROOT / "docs" / "embedding.md"


def blocks(page: str) -> Iterator[tuple[int, str, str]]:
    """Line, code and what it prints: a ``python`` block, and the ``text`` block behind it where there is one."""
    for found in re.finditer(
        r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", page, re.MULTILINE | re.DOTALL
    ):
        yield page.count("\n", 0, found.start()) + 2, found[1], found[2] or ""


def test_the_code_for_applications(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.read_text()
    (tmp_path / "dist").symlink_to(bundles)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    ran = 0
    for line, code, shown in blocks(page):
        said = StringIO()
        with redirect_stdout(said):
            # The page's own line numbers, for a traceback that leads there.
            exec(compile("\n" * (line - 1) + code, PAGE, "exec"), names)  # noqa: S102
        assert said.getvalue() == shown, f"{PAGE}:{line}"
        ran += 1
    assert ran == page.count("\n```python\n") > 5
