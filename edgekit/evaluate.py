"""Evaluate bundles: what a text and labelled records say of each, beside a reference, with speed and memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from edgekit import gates as bars
from edgekit.bench import BUSY
from edgekit.evaluation import kept, running, subjects, tasks
from edgekit.evaluation.document import Evaluation, Row, document, measured
from edgekit.evaluation.figures import Answer, TaskFigures
from edgekit.evaluation.plan import Opened, Plan, open_all
from edgekit.evaluation.running import Speed
from edgekit.evaluation.subjects import Subject
from edgekit.evaluation.text import TextFigures
from edgekit.progress import Progress

__all__ = ["Evaluation", "Plan", "Row", "document", "evaluate", "measured"]

T = TypeVar("T")


def evaluate(plan: Plan, progress: Progress | None = None) -> Evaluation:
    """Measure all bundles; gates are judged, not enforced: ``edgekit.gates.require`` does.

    Everything that is named is opened and checked before a model runs. Raises ``InputError`` and ``BundleError``.
    """
    progress = progress or Progress()
    with ExitStack() as stack:
        opened = open_all(plan, stack, progress)
        texts, found = _texts(opened), _tasks(opened)
        speeds = _speeds(opened) if plan.speed else {}

    def row(one: Subject) -> Row:
        about = one.label, str(one.path), one.quantization, one.size, one.sha256
        return Row(*about, texts.get(one.label), found.get(one.label), speeds.get(one.label))

    rows, reference = [row(one) for one in opened.subjects], opened.reference
    return Evaluation(
        plan=plan,
        rows=rows,
        reference=None if reference is None else row(reference),
        verdicts={one.label: bars.judge(plan.gates, measured(one)) for one in rows},
        text_sha256=opened.text_sha256,
        task_sha256=opened.task.sha256 if opened.task else None,
        machine=running.machine(),
        notes=_notes(opened),
    )


def _notes(opened: Opened) -> list[str]:
    reference = opened.reference
    if reference is None or reference.quantization in subjects.UNQUANTIZED:
        return []
    return [f"the reference is quantized itself: {reference.quantization}"]


def _texts(opened: Opened) -> dict[str, TextFigures]:
    """Every model's figures of the text, by its label; what is known from earlier isn't read again."""
    if opened.text_sha256 is None:
        return {}
    reference, here = opened.reference, running.machine()

    def name(one: Subject) -> str:
        chunks = opened.chunks[one.label]
        other = reference.sha256 if reference and one is not reference else None
        return kept.key("text", model=one.sha256, reference=other, text=opened.text_sha256,
                        chunk=len(chunks[0]), chunks=len(chunks), machine=here)  # fmt: skip

    found = _known(opened, name, TextFigures)
    missing = [one for one in opened.subjects if one.label not in found]
    groups = [[one] for one in missing]
    if reference is not None:
        groups = [[reference, *group] for group in running.together(reference, missing)]
        if not groups and reference.label not in found:
            groups = [[reference]]
    for group in groups:
        chunks = opened.chunks[group[0].label]
        figures = running.read(group, chunks, opened.plan.threads, opened.progress)
        for one, its in zip(group, figures, strict=True):
            found[one.label] = its
            kept.put(name(one), its)
    return found


def _tasks(opened: Opened) -> dict[str, TaskFigures]:
    """Every model's figures of the labelled records, by its label; answers that are known aren't asked for again."""
    task, question = opened.task, opened.question
    if task is None or question is None:
        return {}
    here, texts = running.machine(), [record.text for record in task.records]
    schema = json.dumps(question.schema)  # the order of its keys is that of the answers'

    def name(one: Subject) -> str:
        return kept.key("answers", model=one.sha256, prompt=question.prompt, system=question.system,
                        schema=schema, texts=texts, machine=here)  # fmt: skip

    answers = _known(opened, name, list[Answer])
    for one in opened.all:
        if one.label not in answers:
            answers[one.label] = running.answer(one, question, texts, opened.plan.threads, opened.progress)
            kept.put(name(one), answers[one.label])
    reference = None if opened.reference is None else answers[opened.reference.label]
    return {
        one.label: tasks.measure(
            task.records,
            answers[one.label],
            question.schema,
            None if one is opened.reference else reference,
            seed=opened.plan.seed,
        )
        for one in opened.all
    }


def _speeds(opened: Opened) -> dict[str, Speed]:
    """Every bundle's speed; the reference's isn't measured. What was taken while the machine was busy isn't kept."""
    plan = opened.plan
    return {
        one.label: speed_of(one, plan.threads, opened.progress, cached=plan.cached) for one in opened.subjects
    }


def speed_of(subject: Subject, threads: int, progress: Progress, *, cached: bool = True) -> Speed:
    """A model's speed, as it was measured before where that is kept (and ``cached`` allows it)."""
    name = kept.key("speed", model=subject.sha256, threads=threads, machine=running.machine())
    known = kept.get(name, Speed) if cached else None
    found = known or running.speed(subject, threads, progress)
    if known is None and found.busy < BUSY:
        kept.put(name, found)
    return found


def _known(opened: Opened, name: Callable[[Subject], str], kind: type[T]) -> dict[str, T]:
    """The kept results of all models that have one, by label."""
    if not opened.plan.cached:
        return {}
    found = {one.label: kept.get(name(one), kind) for one in opened.all}
    return {label: one for label, one in found.items() if one is not None}
