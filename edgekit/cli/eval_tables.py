"""An evaluation as tables: one of all models, then fields, labels, changed answers and gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import click

from edgekit.bench import BUSY
from edgekit.cli.output import PIPE_WIDTH, printable, table
from edgekit.evaluate import Evaluation, Row
from edgekit.evaluation.figures import ClassFigures, FieldFigures, Flips, Macro, TaskFigures
from edgekit.evaluation.statistics import Estimate
from edgekit.evaluation.text import Divergence, TextFigures
from edgekit.gates import Verdict, explained
from edgekit.units import size

MOST_CONFUSED = 10
Cell = Callable[[Row], str]


def show(found: Evaluation) -> None:
    """What a person wants to see at once; the JSON document has the rest."""
    rows = ([found.reference] if found.reference else []) + found.rows
    columns = _columns(rows)
    failed = {label for label, verdicts in found.verdicts.items() if not all(one.passed for one in verdicts)}
    table(
        ["", *columns],
        [[row.label, *(cell(row) for cell in columns.values())] for row in rows],
        red=[at for at, row in enumerate(rows) if row.label in failed],
    )
    _explain(found, rows)
    _divergences({row.label: row.text.reference for row in found.rows if row.text and row.text.reference})
    tasks = {row.label: row.task for row in rows if row.task}
    _fields(tasks)
    _labels(tasks)
    _changes({row.label: row.task.reference for row in found.rows if row.task and row.task.reference})
    for note in found.notes:
        click.echo(printable(f"note: {note}"))
    _gates(found.verdicts)


def _columns(rows: Sequence[Row]) -> dict[str, Cell]:
    """The columns for what was measured of any model."""
    columns: dict[str, Cell] = {"size": lambda row: size(row.size)}
    if any(row.text for row in rows):
        columns["perplexity"] = _text(lambda one: f"{one.ppl.value:.4g} ±{one.ppl.error:.2g}")
    if any(row.text and row.text.reference for row in rows):
        columns["KLD"] = _beside(lambda one: f"{one.kld.value:.3g}")
    if any(row.task for row in rows):
        columns["F1"] = _task(_micro)
        columns["exact"] = _task(lambda one: _sure(one.exact))
    if any(row.task and len(row.task.classes) == 1 for row in rows):
        columns["accuracy"] = _task(
            lambda one: ", ".join(_sure(its.accuracy) for its in one.classes.values())
        )
    if any(row.task and row.task.failures for row in rows):
        columns["valid"] = _task(lambda one: f"{one.valid.value:.1%}")
    if any(row.task and row.task.reference for row in rows):
        columns["flips"] = _flips(lambda one: f"{one.share.value:.1%} -{one.lost} +{one.gained}")
    if any(row.speed for row in rows):
        columns["prompt tok/s"] = lambda row: f"{row.speed.prompt_tps:,.0f}" if row.speed else "-"
        columns["tok/s"] = lambda row: f"{row.speed.decode_tps:,.0f}" if row.speed else "-"
        columns["memory"] = lambda row: size(row.speed.memory) if row.speed and row.speed.memory else "-"
    return columns


def _sure(one: Estimate) -> str:
    return f"{one.value:.3f} ±{(one.high - one.low) / 2:.3f}"


def _micro(task: TaskFigures) -> str:
    low, high = task.micro.f1_interval or (task.micro.f1, task.micro.f1)
    return _sure(Estimate(task.micro.f1, low, high))


def _text(form: Callable[[TextFigures], str]) -> Cell:
    return lambda row: form(row.text) if row.text else "-"


def _beside(form: Callable[[Divergence], str]) -> Cell:
    return lambda row: form(row.text.reference) if row.text and row.text.reference else "-"


def _task(form: Callable[[TaskFigures], str]) -> Cell:
    return lambda row: form(row.task) if row.task else "-"


def _flips(form: Callable[[Flips], str]) -> Cell:
    return lambda row: form(row.task.reference) if row.task and row.task.reference else "-"


def _explain(found: Evaluation, rows: Sequence[Row]) -> None:
    """What the figures are of."""
    click.echo()
    if found.reference:
        parts = [str(found.plan.reference), *(str(path) for path, _ in found.plan.adapters)]
        built = ", built" if found.plan.builds_reference else ""
        click.echo(printable(f"reference: {' + '.join(parts)}{built} in {found.reference.quantization}"))
    if text := next((row.text for row in rows if row.text), None):
        click.echo(
            f"{text.positions:,} tokens scored: the second halves of {text.chunks:,} chunks of {text.chunk}"
        )
    if task := next((row.task for row in rows if row.task), None):
        flips = "; flips: changed answers, - right before, + right now" if found.reference else ""
        click.echo(
            f"{task.records:,} records; F1 of all fields together, exact: every field right; ±: 95 % interval{flips}"
        )
    busy = max((row.speed.busy for row in rows if row.speed), default=0.0)
    if busy >= BUSY:
        click.echo(
            f"other programs used {busy:.0%} of the processors: speeds are not those of a quiet machine"
        )
    for row in rows:
        if row.task and row.task.failures:
            listed = ", ".join(f"{code} {count:,}" for code, count in row.task.failures.items())
            click.echo(printable(f"{row.label}: {row.task.valid.value:.1%} valid answers ({listed})"))


def _divergences(found: Mapping[str, Divergence]) -> None:
    """How far the probabilities are from the reference's."""
    if not found:
        return
    rows = [
        [
            label,
            f"{one.kld.value:.3g} ±{one.kld.error:.1g}",
            f"{one.kld_median:.3g}",
            f"{one.kld_p99:.3g}",
            f"{one.kld_max:.3g}",
            f"{one.same_top.value:.1%}",
            f"{100 * one.dp_rms.value:.3g}% ±{100 * one.dp_rms.error:.1g}",
            f"{one.ppl_ratio.value:.4f} ±{one.ppl_ratio.error:.4f}",
        ]
        for label, one in found.items()
    ]
    click.echo()
    columns = [
        "KL divergence, nats",
        "mean",
        "median",
        "p99",
        "max",
        "same top",
        "Δp RMS",
        "perplexity ratio",
    ]
    table(columns, rows)


def _fields(tasks: Mapping[str, TaskFigures]) -> None:
    """F1, precision and recall by field and model, and of all fields together; so many models a table as fit it."""
    names = list(dict.fromkeys(name for task in tasks.values() for name in task.fields))
    if not names:
        return
    title, micro, macro = "F1 (precision, recall)", "together (micro)", "mean (macro)"
    first = max(map(len, (title, *names)))
    for some in _parts(list(tasks), PIPE_WIDTH - first):
        shown = [tasks[label] for label in some]
        rows = [
            [name, *(_shares(task.fields[name]) if name in task.fields else "-" for task in shown)]
            for name in names
        ]
        rows.append([micro, *(_shares(task.micro) for task in shown)])
        rows.append([macro, *(_shares(task.macro) for task in shown)])
        click.echo()
        table([title, *some], rows)


def _parts(labels: Sequence[str], width: int) -> list[list[str]]:
    """Labels in order, as many in a part as there is room for columns under them."""
    parts: list[list[str]] = [[]]
    room = width
    for label in labels:
        takes = 2 + max(len(label), len("0.000 (0.000, 0.000)"))
        if parts[-1] and takes > room:
            parts.append([])
            room = width
        parts[-1].append(label)
        room -= takes
    return parts


def _shares(one: FieldFigures | Macro) -> str:
    f1 = one.f1.value if isinstance(one, Macro) else one.f1
    return f"{f1:.3f} ({one.precision:.3f}, {one.recall:.3f})"


def _labels(tasks: Mapping[str, TaskFigures]) -> None:
    """Accuracy of fields that take a label, and which labels each model takes for which most often."""
    for label, task in tasks.items():
        for name, one in task.classes.items():
            click.echo(
                printable(
                    f"\n{label}, {name}: accuracy {one.accuracy.value:.3f}, macro F1 {one.f1_macro:.3f} "
                    f"of {len(one.labels)} labels"
                )
            )
            if confused := _confused(one):
                table(["expected", "answered", "records"], confused)


def _confused(one: ClassFigures) -> list[list[str]]:
    pairs = [
        (count, one.labels[i], one.labels[j])
        for i, row in enumerate(one.confusion)
        for j, count in enumerate(row)
        if count and i != j
    ]
    most = sorted(pairs, key=lambda pair: (-pair[0], *pair[1:]))[:MOST_CONFUSED]
    return [[wanted, got, str(count)] for count, wanted, got in most]


def _changes(flips: Mapping[str, Flips]) -> None:
    """Whether what changed is more than chance."""
    if not flips:
        return
    rows = [
        [
            label,
            f"{one.lost + one.gained + one.other:,}",
            f"{one.lost:,}",
            f"{one.gained:,}",
            f"{one.other:,}",
            f"{one.mcnemar:.3g}",
            f"{one.f1_drop.value:+.4f} ({one.f1_drop.low:+.4f} to {one.f1_drop.high:+.4f})",
            f"{one.f1_drop.p:.3g}",
        ]
        for label, one in flips.items()
    ]
    click.echo()
    columns = ["changed answers", "all", "lost", "gained", "other", "p (McNemar)", "F1 drop", "p (bootstrap)"]
    table(columns, rows)


def _gates(verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    """Every verdict on a line of its own, those that failed in red."""
    lines = [(label, one) for label, found in verdicts.items() for one in found]
    if not lines:
        return
    click.echo()
    for label, one in lines:
        words = f"{'passed' if one.passed else 'FAILED'}  {label}: {explained(one)}"
        click.echo(click.style(printable(words), fg=None if one.passed else "red", bold=not one.passed))
