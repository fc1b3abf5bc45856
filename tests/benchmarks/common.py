"""Where a run keeps its files, and how it makes a model and builds it with edgekit."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import Cost, disk_bytes, run_child, watching


@dataclass(frozen=True)
class Setting:
    """What the command line asked for."""

    work: Path
    size: str
    runs: int
    threads: int

    @property
    def log(self) -> Path:
        """What the last child printed."""
        return self.work / "last.log"

    @property
    def environment(self) -> Mapping[str, str]:
        """Same threads for everyone, no network, temporary files where they are counted."""
        threads = str(self.threads)
        temporary = self.work / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        return {"OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "TMPDIR": str(temporary)}

    def model(self, size: str | None = None, *, zeros: bool = False) -> Path:
        """A folder with ``base`` and ``adapter``, made where it is missing."""
        size = size or self.size
        folder = self.work / (f"{size}-zeros" if zeros else size)
        if not (folder / "adapter" / "adapter_model.safetensors").exists():
            shutil.rmtree(folder, ignore_errors=True)
            say(f"making the {size} model …")
            flags = ["--zeros"] if zeros else []
            run_child(python("make_model", size, folder, *flags), self.log)
        return folder

    def bundle(self, model: Path, quant: str) -> Path:
        """A bundle of a folder with ``base`` and ``adapter``, built where it is missing and kept for the next run."""
        kept = self.work / model.name / f"bundle-{quant.lower()}"
        if not kept.exists():
            say(f"building {model.name} in {quant} …")
            made = build_with_edgekit(self, model, quant)
            kept.parent.mkdir(parents=True, exist_ok=True)
            Path(made.found["artifact"]).parent.rename(kept)
            shutil.rmtree(made.out)
        return kept

    def ask(self, module: str, *arguments: object, **environment: str) -> Any:
        """Run a module of this package, its last argument a file for what it found, and read that (JSON)."""
        out = self.work / "figures.json"
        out.unlink(missing_ok=True)
        run_child(python(module, *arguments, out), self.log, {**self.environment, **environment})
        return json.loads(out.read_text())


@dataclass(frozen=True)
class EdgekitRun:
    """One `edgekit build`: the whole process, and what it said about itself."""

    cost: Cost
    found: Mapping[str, Any]
    temporary: int
    out: Path


def build_with_edgekit(setting: Setting, model: Path, quant: str) -> EdgekitRun:
    """`edgekit build` into a fresh folder, which is watched for bytes beyond the bundle."""
    out, figures = setting.work / "out-edgekit", setting.work / "figures.json"
    environment = setting.environment
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    arguments = [model / "base", "--adapter", model / "adapter", "--quant", quant, "-o", out]
    command = python("edgekit_side", figures, *arguments, "--threads", setting.threads)
    with watching(out, Path(environment["TMPDIR"])) as disk:
        cost = run_child(command, setting.log, environment)
    found = json.loads(figures.read_text())
    figures.unlink()
    return EdgekitRun(cost, found, disk.peak - disk_bytes(out), out)


def python(module: str, *arguments: object) -> list[str]:
    """A module of this package as a command."""
    return [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)]


def say(text: str) -> None:
    """Progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)
