"""The restaurant example: lint, merge, build two bundles, and hold them against the base alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.build import build
from edgekit.errors import InputError
from edgekit.files import parse_json, read_text
from edgekit.metrics import FieldScore, score_fields
from edgekit.progress import Progress
from edgekit.project import FILE, BuildSpec, read_project

Record = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One model's figures on the held-out utterances."""

    name: str
    size: int
    score: FieldScore
    valid: float
    seconds: float
    answers: list[Record | None]

    @property
    def per_second(self) -> float:
        """Records a second."""
        return len(self.answers) / self.seconds


@dataclass(frozen=True)
class Demo:
    """The utterances, what was expected, and a row per model."""

    utterances: list[str]
    expected: list[Record]
    rows: list[Row]


def run(example: Path, out: Path | None, progress: Progress) -> Demo:
    """Build and measure ``example`` (a folder with edgekit.toml and task/test.jsonl); bundles go to ``out``."""
    if not (example / FILE).is_file():
        raise InputError(
            "the example is not here",
            path=example,
            expected=f"a folder with {FILE} and task/test.jsonl",
            next_step="run it in a checkout of edgekit, or pass the folder with --example",
        )
    spec = read_project(example / FILE)
    texts, expected = _cases(example / "task" / "test.jsonl")
    with _folder(out) as folder:
        spec = replace(spec, out=folder, force=True)
        merged = build(spec, progress)
        base = build(replace(spec, adapters=(), name="base-alone", quantizations=("Q8_0",)), progress)
        rows = []
        for one, name in [(base[0], "base alone Q8_0")] + [
            (m, f"merged {m.manifest.quantization}") for m in merged
        ]:
            progress.stage(f"{len(texts)} utterances, {name}", len(texts))
            rows.append(
                _measure(one.folder, name, one.size, texts, expected, spec, lambda: progress.advance("", 1))
            )
    return Demo(texts, expected, rows)


def _cases(path: Path) -> tuple[list[str], list[Record]]:
    """Utterances and what is expected of each; ``InputError`` names the line that is unsound."""
    texts, expected = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        case = parse_json(line.encode(), path)
        if not isinstance(case.get("text"), str) or not isinstance(case.get("expected"), dict):
            raise InputError(
                f"line {number} is no test case", path=path, expected='{"text": …, "expected": {…}}'
            )
        texts.append(case["text"])
        expected.append(case["expected"])
    if not texts:
        raise InputError("there is no test case", path=path)
    return texts, expected


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="edgekit-demo-") as folder:
        yield Path(folder)


def _measure(
    bundle: Path,
    name: str,
    size: int,
    texts: list[str],
    expected: list[Record],
    spec: BuildSpec,
    tick: Callable[[], None],
) -> Row:
    from jsonschema import Draft202012Validator

    from edgekit.model import load

    validator = Draft202012Validator(spec.output_schema or {})
    answers: list[Record | None] = []
    with load(bundle) as model:
        began = time.perf_counter()
        for text in texts:
            answers.append(model.extract(text).data)
            tick()
        seconds = time.perf_counter() - began
    valid = sum(answer is not None and validator.is_valid(answer) for answer in answers) / len(answers)
    return Row(name, size, score_fields(zip(answers, expected, strict=True)), valid, seconds, answers)
