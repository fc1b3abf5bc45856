"""Tiny bundles to evaluate, and a cache of the test's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.models import write_llama

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"kind": {"enum": ["tea", "coffee", "milk"]}, "name": {"type": ["string", "null"], "maxLength": 6}},
    "required": ["kind", "name"],
    "additionalProperties": False,
}  # fmt: skip
PROMPT: Final = "order: {text}"
TEXT: Final = "A pot of tea, please, and two cups of the black coffee for Mary and John.\n" * 12


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is known from earlier, and nothing of the user's is touched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgekit" / "evaluation"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint (base), its bundles in dist (tiny-f32, tiny-q4_0), a task and a text."""
    from edgekit.build import build
    from edgekit.project import BuildSpec

    folder = tmp_path_factory.mktemp("tiny")
    base = write_llama(folder / "base")
    types = ("F32", "Q4_0")
    build(BuildSpec(base, folder / "dist", "tiny", (), types, prompt=PROMPT, output_schema=SCHEMA))
    (folder / "text.txt").write_text(TEXT)
    write_task(folder / "task.jsonl", 12)
    return folder


def write_task(path: Path, count: int) -> Path:
    """Labelled orders."""
    kinds = SCHEMA["properties"]["kind"]["enum"]
    lines = [
        {
            "id": f"r{at}",
            "text": f"{at} {kinds[at % 3]} for Ann",
            "expected": {"kind": kinds[at % 3], "name": "Ann" if at % 2 else None},
        }
        for at in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
