"""What every side is asked: the same records, schema and prompt; and how what it says is scored."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[3] / "examples" / "restaurant"
RECORDS = 500
FIELDS = ("people", "date", "time", "first_name", "last_name")


@dataclass(frozen=True)
class Job:
    """One task for all sides."""

    texts: Sequence[str]
    schema: dict[str, Any]
    prompt: str
    threads: int
    warm: int
    """Records asked first, uncounted."""
    max_tokens: int = 128

    def write(self, path: Path) -> None:
        """For the sides, which are processes of their own."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Job:
        """What ``write`` wrote."""
        return cls(**json.loads(path.read_text()))

    def asked(self, text: str) -> str:
        """The user's turn."""
        return self.prompt.replace("{text}", text, 1)


@dataclass(frozen=True)
class Said:
    """One side's run: seconds for all records, and each record's answer."""

    seconds: float
    answers: list[str]
    tokens: int
    """Of all answers, as the side itself counts them."""
    system: str
    """What its llama.cpp says about itself."""

    def write(self, path: Path) -> None:
        """For the parent."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Said:
        """What ``write`` wrote."""
        return cls(**json.loads(path.read_text()))


def restaurant(threads: int, count: int = RECORDS) -> tuple[Job, list[dict[str, Any]]]:
    """The restaurant task and the expected records: from EDGEKIT_TEST_DATA, else the 200 of the example."""
    data = os.environ.get("EDGEKIT_TEST_DATA")
    folder = Path(data) / "tasks" / "restaurant" if data else EXAMPLE / "task"
    with (folder / "test.jsonl").open() as lines:
        records = [json.loads(line) for line in islice(lines, count)]
    schema = json.loads((EXAMPLE / "task" / "schema.json").read_text())
    prompt = (EXAMPLE / "task" / "prompt.txt").read_text()
    job = Job([record["text"] for record in records], schema, prompt, threads, warm=40)
    return job, [record["expected"] for record in records]


def bounded(job: Job, count: int, longest: int, warm: int) -> Job:
    """The same task for a model that never ends a string by itself: short strings, and none of them null."""
    field = {"type": "string", "minLength": longest, "maxLength": longest}
    schema = {**job.schema, "properties": dict.fromkeys(FIELDS, field)}
    return Job(job.texts[:count], schema, job.prompt, job.threads, warm, job.max_tokens)


def field_f1(answers: Sequence[str], expected: Sequence[dict[str, Any]]) -> float:
    """Micro-averaged over all fields; an answer that is no JSON has none."""
    from edgekit.metrics import score_fields

    return score_fields(zip(map(_parsed, answers), expected, strict=True)).f1


def _parsed(answer: str) -> dict[str, Any] | None:
    try:
        found = json.loads(answer)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
