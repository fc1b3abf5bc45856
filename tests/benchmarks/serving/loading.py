"""From nothing to the first token, memory beyond weights and KV cache, and what the installed package takes.

``python -m tests.benchmarks.serving.loading edgekit|bare|rss MODEL THREADS OUT``; the first two also take a small
model to load before, so that imports are not counted.
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.common import Setting, say
from tests.benchmarks.measure import disk_bytes, read_through
from tests.benchmarks.report import ratios, spread, table
from tests.benchmarks.serving.job import EXAMPLE, restaurant

ROOT = Path(__file__).parents[3]
PROMPT = "a table for four on the second of june"
CONTEXT, SEQUENCES = 4096, 8
"""What `edgekit.load` opens by default."""
LARGEST = 10
MB = 1e6
BUFFER = re.compile(r"(\S+) +(model|KV|compute|output|RS) +buffer size = +([\d.]+) MiB")
WEIGHTS, CACHE = "model", "KV"


def run(setting: Setting) -> str:
    """One markdown section."""
    bundle, small = setting.bundle(setting.model(), "Q4_K_M"), setting.bundle(EXAMPLE, "Q8_0")
    read_through(bundle)
    pairs: dict[str, list[dict[str, float]]] = {"edgekit": [], "bare": []}
    for index in range(max(setting.runs, 5)):
        say(f"loading, run {index + 1} …")
        for side, found in pairs.items():
            model, first = bundle, small
            if side == "bare":
                model, first = bundle / "model.gguf", small / "model.gguf"
            found.append(setting.ask("serving.loading", side, model, setting.threads, first))
    parts = [f"### Load to first token, {setting.size} Q4_K_M", _times(pairs)]
    say("memory …")
    models = {f"{setting.size} Q4_K_M": bundle, "restaurant Q8_0": small}
    sizes = {
        name: setting.ask("serving.loading", "rss", model, setting.threads) for name, model in models.items()
    }
    parts += ["### Memory beyond weights and KV cache", _memory(sizes)]
    say("installing into a fresh environment …")
    return "\n\n".join([*parts, "### Installed footprint of `edgekit[llamacpp]`", _footprint(setting)])


def _times(pairs: dict[str, list[dict[str, float]]]) -> str:
    names = {
        "warm": ("load and first token, everything imported before, ms", "≤ 1.1"),
        "cold": ("the same as a process's first deed, imports counted, ms", ""),
    }
    rows = []
    for kind, (name, target) in names.items():
        ours, theirs = ([one[kind] for one in pairs[side]] for side in ("edgekit", "bare"))
        share = spread(ratios(ours, theirs), 3)
        rows.append([name, spread(ours, 0, 1e-3), spread(theirs, 0, 1e-3), share, target])
    return table(["", "edgekit", "bare llama.cpp", "ratio", "target"], rows)


def _memory(sizes: Mapping[str, dict[str, float]]) -> str:
    kinds = ["resident", "mapped", "weights", "cache", "compute", "beyond"]
    rows = [[name, *(f"{found[kind] / MB:,.0f}" for kind in kinds), "≤ 100"] for name, found in sizes.items()]
    header = [
        "after 40 records, MB",
        "RSS",
        "of it, the mapped model file",
        "weights in buffers",
        "KV cache",
        "llama.cpp's other buffers (counted in the next)",
        "beyond weights and KV cache",
        "target",
    ]
    return table(header, rows)


def _footprint(setting: Setting) -> str:
    """A fresh environment; pip's own files are not counted. PIP_FIND_LINKS may name a folder with a built wheel."""
    venv = setting.work / "footprint"
    subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    before = disk_bytes(site)
    python = str(venv / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "--no-compile", *constraints, f"{ROOT}[llamacpp]"], check=True)
    whole = disk_bytes(site) - before
    subprocess.run([python, "-m", "compileall", "-q", str(site)], check=False)
    compiled = disk_bytes(site) - before
    sizes = {entry.name: disk_bytes(entry) for entry in site.iterdir() if entry.is_dir()}
    largest = sorted(sizes.items(), key=lambda entry: -entry[1])[:LARGEST]
    rows = [
        ["all that pip installs", f"{whole / MB:.1f}", "≤ 150"],
        ["with Python's compiled files", f"{compiled / MB:.1f}", "≤ 150"],
    ]
    rows += [[f"{name}, compiled", f"{size / MB:.1f}", ""] for name, size in largest if name != "pip"]
    return table(["installed", "MB", "target"], rows)


def _edgekit(model: Path, threads: int) -> Callable[[], None]:
    """Load a bundle, say one token; what is returned closes it."""
    import edgekit

    loaded = edgekit.load(model, threads=threads)
    if not "".join(loaded.stream(PROMPT, raw=True, max_tokens=1)):
        raise SystemExit("there was no first token")
    return loaded.close


def _bare(model: Path, threads: int) -> Callable[[], None]:
    """The same over llama.cpp's C API, with the same context."""
    from tests.benchmarks.bare import Bare

    loaded = Bare(model, threads, context=CONTEXT, sequences=SEQUENCES)
    loaded.generate(PROMPT, 1)
    return loaded.close


def _loads(side: str, model: Path, threads: int, small: Path) -> dict[str, float]:
    """Seconds of a first load with all imports, and of another when a small model was loaded between."""
    work = _edgekit if side == "edgekit" else _bare
    began = time.perf_counter()
    close = work(model, threads)
    cold = time.perf_counter() - began
    close()
    work(small, threads)()
    gc.collect()
    began = time.perf_counter()
    close = work(model, threads)
    warm = time.perf_counter() - began
    close()
    return {"cold": cold, "warm": warm}


def _rss(bundle: Path, threads: int) -> dict[str, float]:
    """Bytes resident after some records; the sizes of llama.cpp's buffers are what it logs."""
    import ctypes

    import edgekit
    from edgekit.runtimes import _llamalib

    lines: list[str] = []
    lib = _llamalib.load()
    log = lib.llama_log_callback(lambda level, text, data: lines.append(text.decode("utf-8", "replace")))
    lib.llama_log_set(log, ctypes.c_void_p(0))
    job, _ = restaurant(threads, 40)
    with edgekit.load(bundle, threads=threads) as model:
        list(model.extract_many(job.texts, job.schema, job.prompt, max_tokens=64))
        status = Path("/proc/self/status").read_text()
        resident = 1024 * sum(map(int, re.findall(r"^Rss\w+:\s+(\d+) kB", status, re.MULTILINE)))
        mapped = _mapped(bundle / "model.gguf")
    sizes = {"weights": 0.0, "cache": 0.0, "compute": 0.0}
    for name, kind, size in BUFFER.findall("".join(lines)):
        if kind == WEIGHTS and "Mapped" in name:
            continue  # pages of the file, counted as they are resident
        sizes[{WEIGHTS: "weights", CACHE: "cache"}.get(kind, "compute")] += float(size) * 2**20
    beyond = resident - mapped - sizes["weights"] - sizes["cache"]
    return {"resident": resident, "mapped": mapped, **sizes, "beyond": beyond}


def _mapped(path: Path) -> int:
    """Resident bytes of a mapped file."""
    found, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            found = line.endswith(str(path.resolve()))
        elif found and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def main() -> None:
    """One child."""
    mode, model, threads, *more, out = sys.argv[1:]
    found: dict[str, Any]
    if mode == "rss":
        found = _rss(Path(model), int(threads))
    else:
        found = _loads(mode, Path(model), int(threads), Path(more[0]))
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
