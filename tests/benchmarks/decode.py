"""Decode speed and time to first token: `Model.stream` against a bare llama_decode loop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.common import Setting, build_with_edgekit, python, say
from tests.benchmarks.measure import run_child
from tests.benchmarks.report import ratios, spread, table

EXAMPLE = Path(__file__).parents[2] / "examples" / "restaurant"
TOKENS = {"1b": 64}
"""Tokens per answer; 256 for smaller models."""


def run(setting: Setting) -> str:
    """Two artifacts; one markdown section."""
    artifacts = {
        f"{setting.size} Q4_K_M": _artifact(setting, setting.model()),
        "restaurant Q4_K_M": _artifact(setting, EXAMPLE),
    }
    rows = []
    for name, artifact in artifacts.items():
        say(f"decoding with {name} …")
        out = setting.work / "figures.json"
        tokens = TOKENS.get(name.split()[0], 256)
        command = python("decode_side", artifact, setting.threads, tokens, out)
        run_child(command, setting.log, setting.environment)
        rows += _rows(name, json.loads(out.read_text()))
        out.unlink()
    header = ["", "edgekit", "bare loop", "ratio", "target"]
    return "### Decode\n\n" + table(header, rows)


def _artifact(setting: Setting, model: Path) -> Path:
    """A Q4_K_M GGUF of the model; the build benchmark leaves one."""
    kept = setting.work / model.name / "q4_k_m.gguf"
    if not kept.exists():
        say(f"building {model.name} …")
        made = build_with_edgekit(setting, model, "Q4_K_M")
        kept.parent.mkdir(exist_ok=True)
        Path(made.found["artifact"]).rename(kept)
        shutil.rmtree(made.out)
    return kept


def _rows(name: str, found: dict[str, dict[str, Any]]) -> list[list[str]]:
    decode, first = found["decode"], found["first"]
    rates = {side: [decode["tokens"] / seconds for seconds in decode[side]] for side in ("edgekit", "bare")}
    speed = ratios(rates["edgekit"], rates["bare"])
    delay = ratios(first["edgekit"], first["bare"])
    return [
        [
            f"{name}: decode, tok/s ({decode['tokens']} tokens, {len(speed)} pairs)",
            spread(rates["edgekit"]),
            spread(rates["bare"]),
            f"{median(speed):.3f} ({min(speed):.3f}–{max(speed):.3f})",
            "≥ 0.97",
        ],
        [
            f"{name}: first token, ms ({first['prompt']} prompt tokens, {len(delay)} pairs)",
            spread(first["edgekit"], 1, 1e-3),
            spread(first["bare"], 1, 1e-3),
            f"{median(delay):.3f} ({min(delay):.3f}–{max(delay):.3f})",
            "≤ 1.05",
        ],
    ]
