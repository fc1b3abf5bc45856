"""The table of families: every cell from a run. ``make families`` writes checked.json and the README's table."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import click
import msgspec

from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import families, plan, presets, stream
from edgekit.converters.gguf.checked import Checked
from edgekit.converters.text_model import open_model
from tests.converters.oracles import SIZES, Case, add_lora, assert_same_answers, make, to_gguf
from tests.converters.test_families import CASES

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "converters" / "gguf" / "checked.json"
BEGIN, END = "<!-- families: made by `make families` -->", "<!-- /families -->"
LLAMA = "llama-3.2"
SCALE, RUNS = 16, 5
SCALED = re.compile(
    r"(hidden|intermediate|input)_size|.*(_dim|_inner|_embd|intermediate_size|_factor)|query_pre.*"
)
"""Settings that grow with the model, for timing; rope factors come per rotated pair."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, help="Just these cases, printed and not written.")
def main(only: tuple[str, ...]) -> None:
    """Check and time every family, and write the table."""
    rows = []
    for name, case in CASES.items():
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(check(name, case, Path(folder)))
        print(markdown([rows[-1]]).splitlines()[-1], flush=True)
    if not only:
        TABLE.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
        readme = ROOT / "README.md"
        before, _, rest = readme.read_text().partition(BEGIN)
        readme.write_text(f"{before}{BEGIN}\n{markdown(rows)}\n{END}{rest.partition(END)[2]}")


def check(name: str, case: Case, folder: Path) -> Checked:
    """One row."""
    model = make(case, folder / "base")
    vocab = model.config.get_text_config().vocab_size
    logits = assert_same_answers(to_gguf(folder / "base", folder / "base.gguf"), model, vocab)
    lora = None
    if case.lora:
        merged = add_lora(case, model, folder / "lora")
        lora = assert_same_answers(
            to_gguf(folder / "base", folder / "lora.gguf", adapter=folder / "lora"), merged, vocab
        )
    architecture = Checkpoint(folder / "base").config["architectures"][0]
    family = families.find(open_model(folder / "base").config, folder / "config.json")
    speed = seconds_per_byte(case, folder / "large") / llamas(folder / "llama")
    return Checked(name, architecture, family.ARCH, logits, lora, "", round(speed, 2), case.tokenizer)


def llamas(folder: Path) -> float:
    """Llama's seconds per byte, measured again beside each family."""
    return seconds_per_byte(CASES[LLAMA], folder)


def seconds_per_byte(case: Case, folder: Path) -> float:
    """Of the pass to Q8_0 on a larger model of the same layout: the median of a few runs."""
    make(Case(case.config, larger({**SIZES, **case.settings})), folder, dtype="bfloat16")
    layout = plan.lay_out(Checkpoint(folder), folder, "large")
    chosen = plan.plan(layout, presets.preset("Q8_0"))
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        stream.write([chosen], [folder / "large.gguf"], 1)
        seconds.append(time.perf_counter() - began)
    read = sum(file.path.stat().st_size for file in Checkpoint(folder).files)
    shutil.rmtree(folder)
    return median(seconds) / read


def larger(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with every size of the layers multiplied."""
    grown: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            grown[key] = larger(value)
        elif (
            isinstance(value, list) and SCALED.fullmatch(key) or type(value) is int and SCALED.fullmatch(key)
        ):
            grown[key] = value * SCALE
        else:
            grown[key] = value
    return grown


def markdown(rows: list[Checked]) -> str:
    """The README's table."""
    lines = [
        "| model | convert | logits | text | LoRA | tokenizer | speed | llama.cpp's converter |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        lora = "-" if one.lora is None else f"{one.lora:.0e}"
        lines.append(
            f"| {one.model} | {one.gguf} | {one.logits:.0e} | same | {lora} | {one.tokenizer} | {one.speed:.2f} | {one.converter or '-'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
