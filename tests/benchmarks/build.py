"""Build time, memory and temporary bytes: `edgekit build` against PEFT, converter and quantizer."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks import peer
from tests.benchmarks.common import EdgekitRun, Setting, build_with_edgekit, python, say
from tests.benchmarks.measure import Cost, read_through, run_child, watching
from tests.benchmarks.report import ratios, spread, table

WALL_TARGETS = {"Q4_K_M": "≤ 0.75", "Q8_0": "≤ 0.35"}
MB = 1e6


@dataclass(frozen=True)
class PeerRun:
    """One run of the peer path: its steps' costs, and what lay on the disk besides the result."""

    steps: dict[str, Cost]
    temporary: int
    size: int

    @property
    def seconds(self) -> float:
        """All steps; what a shell script between them costs is not counted."""
        return sum(step.seconds for step in self.steps.values())

    @property
    def peak(self) -> int:
        """The largest step's."""
        return max(step.peak for step in self.steps.values())


def run(setting: Setting) -> str:
    """Measure every quantization; one markdown section."""
    model, converter = setting.model(), peer.fetch(setting.work / "peer")
    read_through(model)
    # Warm-up: both sides' imports and libraries, with a model that costs seconds.
    small = setting.model("tiny")
    build_with_edgekit(setting, small, "Q8_0")
    _peer_build(setting, small, converter, "Q8_0")
    parts = [_section(setting, model, converter, quant) for quant in WALL_TARGETS]
    return f"### Build, {setting.size} model\n\n" + "\n\n".join(parts)


def _section(setting: Setting, model: Path, converter: Path, quant: str) -> str:
    ours: list[EdgekitRun] = []
    theirs: list[PeerRun] = []
    for index in range(setting.runs):
        ours.append(build_with_edgekit(setting, model, quant))
        _keep_for_decode(setting, model, ours[-1], quant)
        theirs.append(_peer_build(setting, model, converter, quant))
        pair = f"{ours[-1].cost.seconds:.1f} s, peer {theirs[-1].seconds:.1f} s"
        say(f"build {quant}, run {index + 1} of {setting.runs}: edgekit {pair}")
    return f"**{quant}**\n\n{_compared(ours, theirs, quant)}\n\n{_inside(setting, ours, theirs, quant)}"


def _keep_for_decode(setting: Setting, model: Path, made: EdgekitRun, quant: str) -> None:
    """The decode benchmark uses the same artifact."""
    if quant == "Q4_K_M":
        Path(made.found["artifact"]).rename(model / "q4_k_m.gguf")
    shutil.rmtree(made.out)


def _peer_build(setting: Setting, model: Path, converter: Path, quant: str) -> PeerRun:
    out, environment = setting.work / "out-peer", setting.environment
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    merged, wide, final = out / "merged", out / "model-bf16.gguf", out / "model.gguf"
    # gguf-py comes from the sdist: the converter puts its own copy first.
    paths = {**environment, "PYTHONPATH": f"{converter / 'gguf-py'}:{setting.work / 'peer' / 'lib'}"}
    commands = {
        "merge": python("peer", "merge", model / "base", model / "adapter", merged, setting.threads),
        "convert": python("peer", "convert", converter, merged, wide),
        "quantize": python("peer", "quantize", wide, final, quant, setting.threads),
    }
    steps: dict[str, Cost] = {}
    with watching(out, Path(environment["TMPDIR"])) as disk:
        for name, command in commands.items():
            steps[name] = run_child(command, setting.log, paths if name == "convert" else environment)
    result = final.stat()
    shutil.rmtree(out)
    return PeerRun(steps, disk.peak - result.st_blocks * 512, result.st_size)


def _compared(ours: Sequence[EdgekitRun], theirs: Sequence[PeerRun], quant: str) -> str:
    peaks = [run.peak for run in theirs]

    def memory(name: str, values: Sequence[float], target: str) -> list[str]:
        share = f"{median(ratios(values, peaks)):.2f}"
        return [name, spread(values, 0, MB), spread(peaks, 0, MB), share, target]

    walls = [run.cost.seconds for run in ours], [run.seconds for run in theirs]
    rows = [
        ["wall time, s", spread(walls[0]), spread(walls[1]), spread(ratios(*walls), 2), WALL_TARGETS[quant]],
        memory(
            "peak RSS, main process, MB",
            [run.found["main_peak"] for run in ours],
            "≤ 0.15 and ≤ 500 MB",
        ),
        memory("peak RSS, largest child step, MB", [run.found["step_peak"] for run in ours], ""),
        [
            "temporary bytes on disk",
            f"{max(run.temporary for run in ours):,}",
            f"{max(run.temporary for run in theirs):,}",
            "",
            "0",
        ],
        ["artifact, MB", f"{ours[0].found['size'] / MB:,.0f}", f"{theirs[0].size / MB:,.0f}", "", ""],
    ]
    return table(["", "edgekit", "peer", "ratio", "target"], rows)


def _inside(setting: Setting, ours: Sequence[EdgekitRun], theirs: Sequence[PeerRun], quant: str) -> str:
    """Where each side's time goes."""
    passes = [run.found["wall"] for run in ours]
    rest = [run.cost.seconds - run.found["wall"] for run in ours]
    rows = [
        ["edgekit: the pass (read, merge, quantize, write)", spread(passes), ""],
        ["edgekit: the rest (start, vocabulary proof, hashes, golden probes, fsync)", spread(rest), ""],
    ]
    for step in theirs[0].steps:
        costs = [run.steps[step] for run in theirs]
        seconds = spread([cost.seconds for cost in costs])
        rows.append([f"peer: {step}", seconds, spread([cost.peak for cost in costs], 0, MB)])
    share = [100 * run.found["quantizing"] / (setting.threads * run.found["wall"]) for run in ours]
    busy = f"Share of all threads' time in the pass inside `ggml_quantize_chunk`: **{spread(share)} %**"
    goal = " (target: ≥ 95 %)." if quant == "Q4_K_M" else "."
    return table(["inside", "s", "peak RSS, MB"], rows) + f"\n\n{busy}{goal}"
