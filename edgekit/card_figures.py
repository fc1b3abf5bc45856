"""A card's figures: what was measured when a bundle was built, beside what, and how sure it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgekit import evidence
from edgekit.bundle import Manifest
from edgekit.evaluation.figures import TaskFigures
from edgekit.evaluation.intervals import Z
from edgekit.evaluation.statistics import Difference, Estimate
from edgekit.evaluation.text import Mean, TextFigures
from edgekit.evidence import Evidence, Input, Judged
from edgekit.gates import parse, shown
from edgekit.markdown import code, table, words
from edgekit.reliability import Reliability

Line = list[str]
"""A figure's name, itself, its interval, the reference's."""


def measured(manifest: Manifest) -> Iterator[str]:
    """The paragraphs and tables of a card's section."""
    found, speed = evidence.of(manifest), evidence.speed_of(manifest)
    if found is None and speed is None and manifest.confidence is None:
        yield "It was not measured when it was built."
        return
    if found is not None:
        yield from _quality(found)
    if speed is not None:
        memory = "" if speed.memory is None else f", {speed.memory:,} bytes of memory at most"
        yield (
            f"On the machine that built it, with {speed.threads} threads: {speed.prompt_tps:.4g} prompt tokens a "
            f"second, {speed.decode_tps:.4g} tokens written a second{memory}."
        )
    if found is not None:
        yield from _verdicts(found)
    if manifest.confidence is not None:
        yield _confidence(manifest.confidence)


def _quality(found: Evidence) -> Iterator[str]:
    beside = f"beside the merged model in {words(found.reference)}" if found.reference else "by itself"
    if found.text_figures is not None and found.text is not None:
        its = found.text_figures
        yield (
            f"On the text {_named(found.text, ' without the line end at its end')}, {beside}: {its.positions:,} tokens scored, the second halves of "
            f"{its.chunks:,} chunks of {its.chunk:,}."
        )
        yield _table(_of_text(its, found.reference_text))
    if found.task_figures is not None and found.task is not None:
        task = found.task_figures
        yield f"On {task.records:,} labelled records, {_named(found.task)}, {beside}:"
        yield _table(_of_task(task, found.reference_task))
    if found.text_figures or found.task_figures:
        yield "Intervals are of 95 %. Figures are of this data, on the processor that built it; other data gives others."


def _named(one: Input, how: str = "") -> str:
    return f"{code(one.name)} (SHA-256{how} {words(one.sha256)})"


def _table(lines: Sequence[Line]) -> str:
    return table(["figure", "this model", "95 % interval", "reference"], lines)


def _mean(name: str, one: Mean, other: str = "") -> Line:
    low, high = one.value - Z * one.error, one.value + Z * one.error
    return [name, f"{one.value:.6g}", f"{low:.6g} to {high:.6g}", other]


def _sure(name: str, one: Estimate | Difference, other: Estimate | None = None) -> Line:
    theirs = "" if other is None else f"{other.value:.4f}"
    return [name, f"{one.value:.4f}", f"{one.low:.4f} to {one.high:.4f}", theirs]


def _of_text(its: TextFigures, other: TextFigures | None) -> list[Line]:
    lines = [_mean("perplexity", its.ppl, f"{other.ppl.value:.6g}" if other else "")]
    if beside := its.reference:
        lines += [
            _mean("perplexity ratio", beside.ppl_ratio, "1"),
            _mean("mean KL divergence, nats", beside.kld, "0"),
            ["its median", f"{beside.kld_median:.6g}", "", "0"],
            ["its 99th percentile", f"{beside.kld_p99:.6g}", "", "0"],
            ["its largest", f"{beside.kld_max:.6g}", "", "0"],
            _mean("share of positions with the same likeliest token", beside.same_top, "1"),
            _mean("RMS change of the right token's probability", beside.dp_rms, "0"),
        ]
    return lines


def _of_task(its: TaskFigures, other: TaskFigures | None) -> list[Line]:
    lines = [
        _sure("F1 of all fields", _f1(its), _f1(other) if other else None),
        _sure("F1, mean of the fields", its.macro.f1, other.macro.f1 if other else None),
        _sure("records with every field right", its.exact, other.exact if other else None),
        _sure("answers that satisfy the schema", its.valid, other.valid if other else None),
    ]
    for name, one in its.classes.items():
        theirs = other.classes[name].accuracy if other and name in other.classes else None
        lines.append(_sure(f"accuracy of {code(name)}", one.accuracy, theirs))
    for name, field in its.fields.items():
        low, high = field.f1_interval or (field.f1, field.f1)
        theirs = Estimate(other.fields[name].f1, 0, 0) if other and name in other.fields else None
        lines.append(_sure(f"F1 of {code(name)}", Estimate(field.f1, low, high), theirs))
    if flips := its.reference:
        lines += [
            _sure("answers that are others than the reference's", flips.share),
            ["of these right before, wrong now", f"{flips.lost:,}", "", ""],
            ["of these wrong before, right now", f"{flips.gained:,}", "", ""],
            _sure("the reference's F1 less this one", flips.f1_drop),
        ]
    return lines


def _f1(task: TaskFigures) -> Estimate:
    low, high = task.micro.f1_interval or (task.micro.f1, task.micro.f1)
    return Estimate(task.micro.f1, low, high)


def _verdicts(found: Evidence) -> Iterator[str]:
    if found.gates:
        strict = any(one.held is not None for one in found.gates)
        yield "Gates that it had to pass" + (", with the worse end of each interval:" if strict else ":")
        columns = ["gate", "measured", *(["held against it"] if strict else []), ""]
        yield table(columns, [_verdict(one, strict) for one in found.gates])
    if found.ladder:
        yield "It is the smallest that passes. What was tried, smallest first:"
        columns = ["quantization", "bytes", "failed at", ""]
        yield table(columns, [
            [
                words(rung.quantization), f"{rung.size:,}",
                ", ".join(code(one.gate) for one in rung.gates if not one.passed), _passed(rung.passed),
            ]
            for rung in found.ladder
        ])  # fmt: skip


def _verdict(one: Judged, strict: bool) -> Line:
    metric = parse(one.gate).metric
    held = [shown(metric, one.held) if one.held is not None else ""] if strict else []
    return [code(one.gate), shown(metric, one.measured), *held, _passed(one.passed)]


def _passed(passed: bool) -> str:
    return "passed" if passed else "**failed**"


def _confidence(its: Reliability) -> str:
    return (
        f"Its confidence was fitted on {its.records:,} labelled records (SHA-256 {words(its.task)}). Held out in "
        f"{its.folds} folds, {its.overall.accuracy:.1%} of the records were right; the expected calibration error was "
        f"{its.overall.mass_after:.4f}, {its.overall.mass_before:.4f} before."
    )
