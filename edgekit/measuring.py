"""What a build measures of its bundles before they are published, and what their manifests keep of it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit import gates as bars
from edgekit.errors import InputError, UnsupportedModelError
from edgekit.evidence import Evidence, Input, Judged, Rung
from edgekit.gates import Gate
from edgekit.orders import Order
from edgekit.progress import Progress
from edgekit.project import BuildSpec
from edgekit.trial import Trial, asks_speed

if TYPE_CHECKING:
    from edgekit.evaluate import Evaluation, Row


def check(spec: BuildSpec) -> None:
    """``InputError`` for data that can't be measured on, before any weight is read."""
    trial = spec.trial
    if trial.task is not None:
        _check_task(spec, trial.task)
    if trial.text is not None:
        _check_text(spec, trial.text)


def _check_task(spec: BuildSpec, task: Path) -> None:
    from edgekit.evaluation.plan import check_labels
    from edgekit.labelled import read_task

    if spec.prompt is None or spec.output_schema is None:
        raise InputError(
            f"there is no {'prompt' if spec.prompt is None else 'schema'} to ask the task's records with",
            path=task,
            next_step="pass --prompt and --schema, or [prompt] file and schema in the project file",
        )
    check_labels(spec.trial.all_gates, spec.output_schema)
    read_task(task, spec.output_schema)


def _check_text(spec: BuildSpec, text: Path) -> None:
    """The text has to have a chunk's tokens; a model that only llama.cpp's converter knows is asked once it is there."""
    from edgekit.evaluation import running, subjects
    from edgekit.evaluation.plan import cut_for
    from edgekit.evaluation.text import read_plain

    words = read_plain(text)
    plain = replace(
        spec, quantizations=(spec.trial.reference_type,), devices=(), imatrix=None, calibration=None, tensor_types=(),
        split_size=None, llama_cpp=None, format="gguf",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        try:
            model = subjects.foresee(plain, Path(folder) / "foreseen.gguf")
        except UnsupportedModelError:
            if spec.llama_cpp is None:
                raise
            return
        tokens = running.tokenize(model, words)
        cut_for(model, tokens, spec.trial.ctx, spec.trial.chunks, text)


@dataclass(frozen=True)
class Found:
    """What was measured of one artifact, and in which evaluation; None where nothing but its size and speed was."""

    row: Row
    among: Evaluation | None


Work = Sequence[tuple[Order, Path]]


def measured(spec: BuildSpec, reference: Path | None, work: Work, progress: Progress) -> dict[str, Found]:
    """Every artifact that something is measured of, by its quantization; bundles for several devices share one."""
    from edgekit.evaluate import speed_of
    from edgekit.evaluation.subjects import open_subject

    trial, firsts = spec.trial, dict[str, tuple[Order, Path]]()
    for order, folder in work:
        firsts.setdefault(order.quantization, (order, folder))
    if not (trial.refers or trial.all_gates):
        return {}
    among, rows = _rows(spec, reference, list(firsts.values()), progress)
    quick = {order.quantization for order, _ in work if asks_speed(gates_of(trial, order))}
    found = {}
    for (name, (_, folder)), row in zip(firsts.items(), rows, strict=True):
        if name in quick:
            subject = replace(open_subject(folder, row.label), sha256=row.sha256)
            row = msgspec.structs.replace(row, speed=speed_of(subject, spec.threads or 0, progress))
        found[name] = Found(row, among)
    return found


def gates_of(trial: Trial, order: Order) -> tuple[Gate, ...]:
    """What a bundle has to pass."""
    return trial.gates_for(order.target.name if order.target else None)


def _rows(
    spec: BuildSpec, reference: Path | None, those: Work, progress: Progress
) -> tuple[Evaluation | None, Sequence[Row]]:
    from edgekit.evaluate import Plan, Row, evaluate
    from edgekit.evaluation import subjects

    trial = spec.trial
    names, folders = [order.label for order, _ in those], [folder for _, folder in those]
    if not trial.refers:
        found = [subjects.digested(one) for one in subjects.open_subjects(folders, names)]
        return None, [Row(one.label, str(one.path), one.quantization, one.size, one.sha256) for one in found]
    plan = Plan(
        bundles=tuple(folders),
        labels=tuple(names),
        reference=reference,
        task=trial.task,
        text=trial.text,
        chunk=trial.ctx,
        chunks=trial.chunks,
        speed=False,
        threads=spec.threads or 0,
    )
    among = evaluate(plan, progress)
    return among, among.rows


def plain(gates: Sequence[Gate], row: Row) -> list[Judged]:
    """Gates, held against the figures as they were measured."""
    from edgekit.evaluate import measured

    return [Judged(one.gate.text, one.value, one.passed) for one in bars.judge(gates, measured(row))]


def held(gates: Sequence[Gate], row: Row) -> list[Judged]:
    """Gates, held against the end of each figure's interval that is the worse one for it."""
    from edgekit.evaluate import measured
    from edgekit.evaluation.intervals import intervals

    values, ends, judged = measured(row), intervals(row), list[Judged]()
    for gate in gates:
        value, held = values.get(gate.metric), None
        if value is not None and gate.metric in ends:
            held = ends[gate.metric][0 if gate.operator.startswith(">") else 1]
        bar = value if held is None else held
        judged.append(Judged(gate.text, value, bar is not None and gate.passes(bar), held))
    return judged


def evidence_of(trial: Trial, its: Found, row: Row, judged: list[Judged], ladder: Sequence[Rung]) -> Evidence:
    among = its.among
    reference = None if among is None else among.reference
    text, task = (None, None) if among is None else (among.text_sha256, among.task_sha256)
    figures = row.task
    if (
        figures and figures.reference
    ):  # texts and labels of a user's records aren't for those who get the bundle
        flips = msgspec.structs.replace(figures.reference, changes=[])
        figures = msgspec.structs.replace(figures, reference=flips)
    return Evidence(
        reference=None if reference is None else reference.quantization,
        text=Input(trial.text.name, text) if trial.text and text else None,
        task=Input(trial.task.name, task) if trial.task and task else None,
        text_figures=row.text,
        task_figures=figures,
        reference_text=None if reference is None else reference.text,
        reference_task=None if reference is None else reference.task,
        gates=judged,
        ladder=list(ladder),
    )
