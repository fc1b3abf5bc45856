"""What a run is asked to do, and which of it must be the same when it goes on after an interruption."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from edgekit.bundle import MANIFEST, Bundle
from edgekit.errors import InputError
from edgekit.files import sha256
from edgekit.pipeline.readers import Fields

FORMATS: Final = ("jsonl", "csv", "parquet", "sqlite")
_SUFFIXES: Final = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet",
    ".sqlite": "sqlite", ".sqlite3": "sqlite", ".db": "sqlite",
}  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """How often what was written is made durable: every so many records, or seconds."""

    records: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """``500`` is records, ``2s`` seconds; ``InputError`` for anything else."""
        try:
            if text.endswith("s"):
                made = cls(seconds=float(text[:-1]))
            else:
                made = cls(records=int(text))
        except ValueError:
            made = cls(records=0)
        if not (made.records or 0) > 0 and not 0 < (made.seconds or 0) < 86_400:
            raise InputError(
                "no interval", found=text, expected="records, such as 500, or seconds, such as 2s"
            )
        return made


@dataclass(frozen=True)
class Job:
    """One run of ``extract_files``. Unset options are the bundle's or the model's own."""

    bundle: Path
    inputs: tuple[str, ...]
    out: Path
    format: str | None = None
    review: Path | None = None
    fields: Fields = field(default_factory=Fields)
    input_format: str | None = None
    schema: Mapping[str, Any] | None = None
    prompt: str | None = None
    min_confidence: float | None = None
    max_tokens: int | None = None
    n_ctx: int | None = None
    threads: int = 0
    n_parallel: int | None = None
    kv_type: str | None = None
    verify: bool = False
    max_errors: int | None = None
    sync: Interval = Interval(seconds=2.0)
    restart: bool = False

    @property
    def kind(self) -> str:
        """The output's format, by its name where none was given; ``InputError`` where the name doesn't say."""
        kind = self.format or _SUFFIXES.get(self.out.suffix.lower())
        if kind not in FORMATS:
            raise InputError(
                "the output's format can't be told from its name",
                path=self.out,
                found=self.out.suffix or "no suffix",
                expected=", ".join(_SUFFIXES),
                next_step=f"say it with --format {'|'.join(FORMATS)}",
            )
        return kind

    def check(self) -> None:
        """Refuse places that can't be written or would overwrite what is read; nothing is touched."""
        places = [self.out, *([] if self.review is None else [self.review])]
        for place in places:
            if not place.name or place.is_dir():
                raise InputError("not a name for a file", path=place)
            if place.exists() and not place.is_file():
                raise InputError("no regular file", path=place, expected="the name of a file to write")
            for name in self.inputs:
                if _same(place, Path(name)):
                    raise InputError(
                        "would be overwritten by its own results", path=name, next_step="choose another -o"
                    )
        if self.review is not None and _same(self.out, self.review):
            raise InputError("the output and the review file are one", path=self.out)


def _same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


@dataclass(frozen=True)
class Task:
    """The schema and prompt that a job extracts by, with the digest of what it runs."""

    name: str
    digest: str
    schema: Mapping[str, Any]
    prompt: str


def task_of(job: Job) -> Task:
    """Read the bundle's manifest (or hash a .gguf file); ``InputError`` where no schema or no prompt is known."""
    if job.bundle.is_file():
        name, prompt, schema = job.bundle.name, None, None
        digest = sha256(job.bundle)
    else:
        manifest = Bundle.open(job.bundle).manifest
        name, prompt, schema = manifest.name, manifest.prompt, manifest.output_schema
        digest = sha256(job.bundle / MANIFEST)
    schema = schema if job.schema is None else dict(job.schema)
    prompt = prompt if job.prompt is None else job.prompt
    for what, value in (("schema", schema), ("prompt", prompt)):
        if value is None:
            raise InputError(
                f"there is no {what} to extract by",
                path=job.bundle,
                next_step=f"pass --{what}, or build the bundle with one",
            )
    assert schema is not None and prompt is not None
    if "{text}" not in prompt:
        raise InputError("the prompt has no place for the text", found=prompt[:200], expected="{text} in it")
    return Task(name, digest, schema, prompt)


def settings_of(job: Job, task: Task) -> dict[str, str]:
    """By name, what the output depends on; threads and the interval of syncing are not among it."""
    schema = json.dumps(task.schema, ensure_ascii=False, separators=(",", ":"))
    review = None if job.review is None else os.path.relpath(job.review, job.out.parent)
    shown = {
        "bundle": f"{task.name}, SHA-256 {task.digest[:16]}",
        "schema": f"SHA-256 {hashlib.sha256(schema.encode()).hexdigest()[:16]}",
        "prompt": task.prompt
        if len(task.prompt) < 200
        else f"SHA-256 {hashlib.sha256(task.prompt.encode()).hexdigest()}",
        "--format": job.kind,
        "--review": review,
        "--input-format": job.input_format,
        "--text-field": job.fields.text,
        "--id-field": job.fields.id,
        "--delimiter": job.fields.delimiter,
        "--min-confidence": job.min_confidence,
        "--max-tokens": job.max_tokens,
        "--ctx": job.n_ctx,
        "--parallel": job.n_parallel,
        "--kv-type": job.kv_type,
    }
    return {name: "not given" if value is None else str(value) for name, value in shown.items()}
