"""What is to be evaluated, and all of it opened and checked before a model runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgekit import gates as bars
from edgekit.errors import InputError
from edgekit.evaluation import running, subjects
from edgekit.evaluation.labels import label_fields
from edgekit.evaluation.running import Question, Tokens
from edgekit.evaluation.subjects import Subject
from edgekit.evaluation.text import cut, read_plain
from edgekit.gates import Gate
from edgekit.labelled import Task, read_task
from edgekit.progress import Progress
from edgekit.prompts import PLACE

CHUNK: Final = 512


@dataclass(frozen=True)
class Plan:
    """What to evaluate, and on what. At least one of ``task`` and ``text``."""

    bundles: tuple[Path, ...]
    """Bundles' folders, or .gguf files."""
    labels: tuple[str, ...] = ()
    """What these are called; unset: as their folders or files."""
    reference: Path | None = None
    """A checkpoint's folder, a bundle's, or a .gguf file."""
    adapters: tuple[tuple[Path, float], ...] = ()
    """What is merged into the reference."""
    reference_runtime: str = subjects.LLAMA_CPP
    """What the reference runs in: llama.cpp, or transformers in float32, for a text alone."""
    reference_type: str = "F16"
    """What a reference is built in: F16 keeps more of a merged weight than BF16 does, F32 keeps all."""
    task: Path | None = None
    text: Path | None = None
    prompt: str | None = None
    """Instead of the bundles' own; needed where they have none."""
    schema: Mapping[str, Any] | None = None
    chunk: int | None = None
    """Tokens that are read at once; unset: 512, or the context that the models were trained with."""
    chunks: int | None = None
    """At most so many; unset: the whole text."""
    gates: tuple[Gate, ...] = ()
    speed: bool = True
    threads: int = 0
    seed: int = 0
    """Of the bootstrap."""
    cached: bool = True
    """Whether results of earlier evaluations are taken."""

    @property
    def builds_reference(self) -> bool:
        """Whether the reference is made for the purpose."""
        return self.reference is not None and bool(self.adapters or subjects.is_checkpoint(self.reference))

    def __post_init__(self) -> None:
        if not self.bundles:
            raise InputError("there is nothing to evaluate", expected="a bundle's folder or a .gguf file")
        if self.task is None and self.text is None:
            raise InputError("there is nothing to evaluate on", next_step="pass a task, a text, or both")
        if self.adapters and self.reference is None:
            raise InputError("adapters are merged into a reference", next_step="pass the reference, too")
        if self.reference_type not in subjects.UNQUANTIZED:
            raise InputError(
                "a reference is not quantized",
                found=self.reference_type,
                expected=", ".join(subjects.UNQUANTIZED),
            )
        self._check_runtime()
        names = {"text": self.text, "task": self.task, "reference": self.reference, "speed": self.speed}
        bars.check_measured(self.gates, {name for name, given in names.items() if given})

    def _check_runtime(self) -> None:
        if self.reference_runtime not in subjects.RUNTIMES:
            raise InputError(
                "no such runtime for a reference",
                found=self.reference_runtime,
                expected=", ".join(subjects.RUNTIMES),
            )
        if self.reference_runtime != subjects.TRANSFORMERS:
            return
        if self.task is not None:
            raise InputError(
                "transformers is a reference for texts only",
                next_step="leave out --task, or --reference-runtime",
            )
        if self.reference is None or not subjects.is_checkpoint(self.reference):
            raise InputError(
                "transformers reads a checkpoint", path=self.reference, found="none" if self.reference is None else None,
                expected="--reference with a checkpoint's folder",
            )  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """Everything that is needed, checked; the reference's chunks are those of all that are compared to it."""

    plan: Plan
    subjects: list[Subject]
    reference: Subject | None
    task: Task | None
    question: Question | None
    chunks: dict[str, list[list[int]]]
    """By the model's label."""
    text_sha256: str | None
    progress: Progress

    @property
    def all(self) -> list[Subject]:
        """The reference first."""
        return ([self.reference] if self.reference else []) + self.subjects


def open_all(plan: Plan, stack: ExitStack, progress: Progress) -> Opened:
    """Look at everything, the cheap things first; a reference that has to be built comes after all that can be refused."""
    named = subjects.open_subjects(plan.bundles, plan.labels)
    question = None if plan.task is None else _question(plan, named)
    task = None if plan.task is None or question is None else read_task(plan.task, question.schema)
    text = None if plan.text is None else read_plain(plan.text)
    tokens = [] if text is None else [running.tokenize(one, text) for one in named]
    chunk = plan.chunk or min([CHUNK, *(one.trained for one in named)])
    chunks = {one.label: _cut(plan, one, its, chunk) for one, its in zip(named, tokens, strict=False)}
    reference = (
        None
        if plan.reference is None
        else subjects.Reference(
            plan.reference, plan.adapters, plan.reference_type, stack, progress, plan.reference_runtime
        )
    )
    foreseen = None if reference is None else reference.foreseen()
    if reference and foreseen and text is not None:
        theirs = running.tokenize(foreseen, text)
        for one, its in zip(named, tokens, strict=True):
            running.check_vocabulary(one, its, reference.path, theirs)
        chunks[subjects.REFERENCE] = _cut(plan, foreseen, theirs, chunk)
    named = _digested(named, progress)
    digest = None if text is None else hashlib.sha256(text.encode()).hexdigest()
    made = None if reference is None else subjects.digested(reference.made())
    return Opened(plan, named, made, task, question, chunks, digest, progress)


def _digested(those: list[Subject], progress: Progress) -> list[Subject]:
    progress.stage("checking models", len(those))
    found = []
    for one in those:
        found.append(subjects.digested(one))
        progress.advance(one.label, 1)
    return found


def _cut(plan: Plan, subject: Subject, tokens: Tokens, chunk: int) -> list[list[int]]:
    assert plan.text is not None
    return cut_for(subject, tokens, chunk, plan.chunks, plan.text)


def cut_for(
    subject: Subject, tokens: Tokens, chunk: int | None, most: int | None, path: Path
) -> list[list[int]]:
    """A text's chunks for one model; ``InputError`` for chunks beyond its context, and for a text shorter than one."""
    chunk = chunk or min(CHUNK, subject.trained)
    if chunk > subject.trained:
        raise InputError(
            "the chunks are longer than the model's context",
            path=subject.path,
            found=f"{chunk} tokens",
            expected=f"at most {subject.trained}",
        )
    return cut(tokens.ids, tokens.bos, chunk, most, path)


def _question(plan: Plan, named: Sequence[Subject]) -> Question:
    """What records are asked with: the bundles' own prompt, system text and schema, or those of the plan."""
    prompt = plan.prompt if plan.prompt is not None else _own(named, "prompt")
    schema = plan.schema if plan.schema is not None else _own(named, "schema")
    if prompt is None or schema is None:
        raise InputError(
            f"there is no {'prompt' if prompt is None else 'schema'} to ask the task's records with",
            path=named[0].path,
            next_step="pass --prompt and --schema, or name a bundle that was built with them",
        )
    if PLACE not in prompt:
        raise InputError(f"the prompt template has no place for the text: {PLACE}", found=prompt[:200])
    from edgekit.runtimes.constraint import compile_schema

    compile_schema(schema)
    check_labels(plan.gates, schema)
    return Question(prompt, _own(named, "system"), schema)


def check_labels(gates: Sequence[Gate], schema: Mapping[str, Any]) -> None:
    """``InputError`` for a gate on labels where the schema has none."""
    for gate in gates:
        if gate.metric == "accuracy" and not label_fields(schema):
            raise InputError(
                "the gate can't be judged: no field of the schema takes one of a few labels",
                found=gate.text,
                next_step="use f1 or exact, or a schema with an enum",
            )


def _own(named: Sequence[Subject], what: str) -> Any:
    """What the bundles bring, the same in all that bring a prompt or a schema; a .gguf file brings nothing."""
    bringing = [one for one in named if one.prompt is not None or one.schema is not None]
    first = next((one for one in bringing if getattr(one, what) is not None), None)
    for one in bringing:
        its = getattr(one, what)
        if first and its != getattr(first, what) and (its is not None or what == "system"):
            raise InputError(
                "the bundles ask differently, so their answers can't be compared",
                path=one.path,
                found=f"another {what}",
                expected=f"that of {first.label}",
                next_step="evaluate them one by one, or pass --prompt and --schema for all",
            )
    return first and getattr(first, what)
