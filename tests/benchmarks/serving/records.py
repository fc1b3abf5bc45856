"""Records a second: `extract_many` against a plain loop over llama-cpp-python, and against llama-server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks.common import Setting, python, say
from tests.benchmarks.measure import run_child
from tests.benchmarks.report import ratios, spread, table
from tests.benchmarks.serving import server
from tests.benchmarks.serving.job import EXAMPLE, Job, Said, bounded, field_f1, restaurant

LARGE_RECORDS, LARGE_WARM, LARGE_STRINGS = 32, 8, 8
OURS, OURS_Q8 = "edgekit", "edgekit, KV cache in q8_0"


HEADER = ["", "records/s", "tokens a record", "edgekit / it", "same answers as edgekit"]


@dataclass(frozen=True)
class Side:
    """How one side is started, and how often edgekit has to be as fast as it."""

    name: str
    arguments: Sequence[object]
    """SIDE and MODEL, as ``sides.py`` takes them."""
    extra: Sequence[object] = ()
    library: Path | None = None
    """A folder with a libllama for llama-cpp-python to load instead of its own."""
    """None: the one that is installed, or that the environment names."""
    target: float | None = None


def run(setting: Setting) -> str:
    """The restaurant bundle in Q8_0."""
    job, expected = restaurant(setting.threads)
    bundle = setting.bundle(EXAMPLE, "Q8_0")
    artifact, program = bundle / "model.gguf", server.binary(setting.work)
    log = setting.work / "server.log"
    sides = [
        Side(OURS, ["edgekit", bundle]),
        Side(OURS_Q8, ["edgekit", bundle], ["q8_0"]),
        # The loop gets the server's library: the installed one may lack OpenMP, or AMX code that works.
        Side("llama-cpp-python, loop", ["loop", artifact], library=program.parent, target=5),
        _server(program, artifact, log, 3),
        _server(program, artifact, log, 3, "-ctk", "q8_0", "-ctv", "q8_0"),
    ]
    found = _measure(setting, job, sides)
    scores = {name: field_f1(said[0].answers, expected) for name, said in found.items()}
    rows = [
        [*_row(side, job, found, OURS, OURS_Q8), f"{scores[side.name]:.4f}", _target(side, " and F1 ≥ .885")]
        for side in sides
    ]
    header = [*HEADER[:4], f"{OURS_Q8} / it", *HEADER[4:], "field F1", "target"]
    count = len(job.texts)
    return f"### Records a second: restaurant Q8_0, {count} utterances\n\n{table(header, rows)}\n\n{_systems(found)}"


def run_large(setting: Setting) -> str:
    """A random model of 1B parameters, its strings bounded."""
    whole, _ = restaurant(setting.threads, LARGE_RECORDS)
    job = bounded(whole, LARGE_RECORDS, LARGE_STRINGS, LARGE_WARM)
    bundle = setting.bundle(setting.model(), "Q4_K_M")
    artifact, program = bundle / "model.gguf", server.binary(setting.work)
    sides = [
        Side(OURS, ["edgekit", bundle]),
        _server(program, artifact, setting.work / "server.log", 2),
    ]
    found = _measure(setting, job, sides)
    rows = [[*_row(side, job, found, OURS), _target(side)] for side in sides]
    title = f"### Records a second: random {setting.size} Q4_K_M, {len(job.texts)} records"
    return f"{title}\n\n{table([*HEADER, 'target'], rows)}\n\n{_systems(found)}"


def _server(program: Path, artifact: Path, log: Path, target: float, *more: str) -> Side:
    """Eight slots; its libraries lie beside it, for the client to ask what they were built with."""
    name = " ".join(["llama-server", *more])
    return Side(name, ["server", artifact], [program, log, *more], program.parent, target)


def _measure(setting: Setting, job: Job, sides: Sequence[Side]) -> dict[str, list[Said]]:
    """All sides in turn, as often as the setting says."""
    task, out = setting.work / "job.json", setting.work / "figures.json"
    job.write(task)
    found: dict[str, list[Said]] = {side.name: [] for side in sides}
    for index in range(setting.runs):
        for side in sides:
            kind, model = side.arguments
            paths = {"LLAMA_CPP_LIB_PATH": str(side.library)} if side.library else {}
            command = python("serving.sides", kind, model, task, out, *side.extra)
            run_child(command, setting.log, {**setting.environment, **paths})
            said = Said.read(out)
            out.unlink()
            found[side.name].append(said)
            rate = len(job.texts) / said.seconds
            say(f"records, run {index + 1} of {setting.runs}: {side.name} {rate:.1f} records/s")
    return found


def _row(side: Side, job: Job, found: dict[str, list[Said]], *ours: str) -> list[str]:
    """``ours``: the sides of edgekit to compare with; one of its own isn't compared."""
    count, said = len(job.texts), found[side.name]
    rates = {name: [count / one.seconds for one in found[name]] for name in (side.name, *ours)}
    peer = side.name not in ours
    faster = [spread(ratios(rates[name], rates[side.name]), 2) if peer else "" for name in ours]
    same = sum(a == b for a, b in zip(said[0].answers, found[OURS][0].answers, strict=True))
    tokens = median(one.tokens for one in said) / count
    return [side.name, spread(rates[side.name]), f"{tokens:.1f}", *faster, f"{same} of {count}"]


def _target(side: Side, more: str = "") -> str:
    return f"≥ {side.target:g}{more}" if side.target else ""


def _systems(found: dict[str, list[Said]]) -> str:
    """What each library says it was built with, so that nobody is measured with a lame one."""
    names: dict[str, list[str]] = {}
    for name, said in found.items():
        names.setdefault(said[0].system.strip(), []).append(name)
    lines = [f"- {'; '.join(those)}: `{system}`" for system, those in names.items()]
    return "What each side's llama.cpp says about itself:\n\n" + "\n".join(lines)
