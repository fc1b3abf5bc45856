"""What every quantization costs on the restaurant model: as llama.cpp rounds, with an importance matrix, refined; and auto.

    python -m tests.benchmarks.quality DATA OUT [PRESET …]

DATA is the folder of the further test data (models, tasks, corpora). Calibrated on training records and War and Peace;
measured on wikitext-2's test part and on labelled test records, beside the F32 model. Keeps what it has built and measured
in OUT, and prints the table of docs/quantization.md. About 40 minutes on two cores.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgekit.budget import AUTO, Budget
from edgekit.build import build
from edgekit.converters.gguf.presets import PRESETS
from edgekit.errors import InputError
from edgekit.evaluate import Evaluation, Plan, Row, evaluate
from edgekit.files import read_json
from edgekit.progress import Progress
from edgekit.project import BuildSpec, read_prompt

RECORDS, PASSAGES, PASSAGE = 1500, 230, 2000
CHUNKS, TESTED = 60, 500
TRAINED_FOR = {"TQ1_0", "TQ2_0", "Q1_0"}
WAYS: Final = {"plain": "rounded", "matrix": "with a matrix", "refined": "refined"}
SIZES: Final = ("Q4_K_M", "Q3_K_M", "Q2_K")
"""Presets at whose bytes auto is built; Q4_K_M also at 10 % less."""


class Said(Progress):
    """One line a stage."""

    def stage(self, name: str, total: int) -> None:
        print(f"  {name} …", file=sys.stderr, flush=True)


def calibration(data: Path, out: Path) -> Path:
    """Training records, and passages of a book that no test has."""
    prompt = read_prompt(data / "tasks/restaurant/prompt.txt")
    lines = []
    for line in (data / "tasks/restaurant/train.jsonl").read_text().splitlines()[:RECORDS]:
        record = json.loads(line)
        answer = json.dumps(record["expected"], separators=(",", ":"), ensure_ascii=False)
        asked = {"role": "user", "content": prompt.replace("{text}", record["text"])}
        lines.append(json.dumps({"messages": [asked, {"role": "assistant", "content": answer}]}))
    book = (data / "corpora/war-and-peace.txt").read_text()
    step = len(book) // PASSAGES
    lines += [json.dumps({"text": book[at * step : at * step + PASSAGE]}) for at in range(PASSAGES)]
    path = out / "calibration.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def spec(data: Path, out: Path) -> BuildSpec:
    """The model, without its prompt: the book's passages aren't asked anything."""
    return BuildSpec(
        base=data / "models/tiny-extract", adapters=((data / "models/tiny-extract-restaurant-lora", 1.0),),
        out=out,
        name="plain",
        force=True,
    )  # fmt: skip


def records(data: Path, out: Path) -> Path:
    """The first test records."""
    lines = (data / "tasks/restaurant/test.jsonl").read_text().splitlines()[:TESTED]
    path = out / "test.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def make(base: BuildSpec, calibrated: Path, presets: Sequence[str]) -> dict[str, Path]:
    """Bundles by what they are called; those that are there already aren't built again."""
    found: dict[str, Path] = {}

    def need(label: str, one: BuildSpec) -> None:
        folder = base.out / f"{one.name}-{one.quantizations[0].lower()}"
        if not (folder / "manifest.json").exists():
            print(f"building {label}", file=sys.stderr, flush=True)
            try:
                build(one, Said())
            except InputError as error:
                print(f"  not built: {error}", file=sys.stderr)
                return
        found[label] = folder

    need("F32", replace(base, quantizations=("F32",)))
    matrix = base.out / "imatrix.gguf"
    if not matrix.exists():
        from edgekit.importance import calibrate

        calibrate(base, calibrated, matrix, None, Said())
    for name in presets:
        one = replace(base, quantizations=(name,))
        need(f"{name} plain", one)
        need(f"{name} matrix", replace(one, name="matrix", imatrix=matrix))
    found |= refined(base, calibrated, presets)
    for name in SIZES:
        if (reference := found.get(f"{name} matrix")) is None:
            continue
        size = (reference / "model.gguf").stat().st_size
        for label, most in (("", size), *((("-less", int(0.9 * size)),) if name == "Q4_K_M" else ())):
            auto = replace(base, quantizations=(AUTO,), name=f"{name.lower()}{label}", calibration=calibrated)
            need(f"auto {name}{label}", replace(auto, budget=Budget(max_size=most)))
    return found


def refined(base: BuildSpec, calibrated: Path, presets: Sequence[str]) -> dict[str, Path]:
    """All that aren't there yet in one build, which reads the data once."""
    folders = {name: base.out / f"refined-{name.lower()}" for name in presets}
    if missing := tuple(name for name in presets if not (folders[name] / "manifest.json").exists()):
        print(f"building {', '.join(missing)} refined", file=sys.stderr, flush=True)
        build(
            replace(base, name="refined", quantizations=missing, calibration=calibrated, refine=True), Said()
        )
    return {f"{name} refined": folder for name, folder in folders.items()}


def measured(data: Path, out: Path, found: dict[str, Path]) -> dict[str, Row]:
    """All bundles beside F32, on the text and, but for those that are only rounded, on the task."""
    reference = found.pop("F32")
    folder = data / "tasks/restaurant"
    common = {
        "reference": reference, "speed": False, "text": data / "corpora/wikitext-2/test.txt", "chunks": CHUNKS,
        "prompt": read_prompt(folder / "prompt.txt"), "schema": read_json(folder / "schema.json", limit=1 << 16),
    }  # fmt: skip
    rows = {}
    for label, folder in found.items():
        task = None if label.endswith(("plain", "matrix")) else records(data, out)
        print(f"measuring {label}", file=sys.stderr, flush=True)
        plan = Plan((folder,), task=task, **common)  # type: ignore[arg-type]
        one: Evaluation = evaluate(plan)
        rows[label] = one.rows[0]
    return rows


def kld(row: Row | None) -> str:
    """Mean KL divergence, or a dash."""
    return (
        "–"
        if row is None or row.text is None or row.text.reference is None
        else f"{row.text.reference.kld.value:.5f}"
    )


def task(row: Row | None) -> list[str]:
    """F1 with its interval, its loss with p, flips."""
    if row is None or row.task is None or row.task.reference is None:
        return ["–", "–", "–"]
    f1, flips = row.task.micro, row.task.reference
    assert f1.f1_interval is not None
    low, high = f1.f1_interval
    return [f"{f1.f1:.3f} ({low:.3f}–{high:.3f})", f"{flips.f1_drop.value:+.3f}", f"{flips.share.value:.1%}"]


def show(rows: dict[str, Row], presets: Sequence[str]) -> None:
    """The tables."""
    print("| | bytes | rounded | with a matrix | refined | F1 (95 %) | loss | flips |")
    print("| --- | --: | --: | --: | --: | --- | --: | --: |")
    for name in presets:
        ways = {way: rows.get(f"{name} {way}") for way in WAYS}
        best = ways["refined"] or ways["matrix"]
        if best:
            cells = [kld(ways[way]) for way in WAYS] + task(best)
            print(f"| {name} | {best.size:,} | {' | '.join(cells)} |")
    print(
        "\n| auto, no more bytes than | bytes | KL divergence | of the matrix build's | F1 (95 %) | loss | flips |"
    )
    print("| --- | --: | --: | --: | --- | --: | --: |")
    for label, row in rows.items():
        if label.startswith("auto "):
            name = label.removeprefix("auto ")
            theirs = rows.get(f"{name.removesuffix('-less')} matrix")
            ratio = "–" if theirs is None else f"{float(kld(row)) / float(kld(theirs)):.2f}"
            print(f"| {name} | {row.size:,} | {kld(row)} | {ratio} | {' | '.join(task(row))} |")


def main() -> None:
    """Build, measure, print."""
    data, out = (Path(argument) for argument in sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    presets = sys.argv[3:] or [name for name in PRESETS if name not in TRAINED_FOR | {"F32", "MXFP4_MOE"}]
    found = make(spec(data, out), calibration(data, out), presets)
    show(measured(data, out, found), presets)


if __name__ == "__main__":
    main()
