"""A bundle's key: the SHA-256 of everything that decides its bytes, known before anything is built."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec

from edgekit.digests import Digests
from edgekit.files import real, require_folder
from edgekit.gguf_shards import parts_of
from edgekit.project import BuildSpec
from edgekit.provenance import tools
from edgekit.trial import asks_speed

SUFFIXES: Final = frozenset({".safetensors", ".json", ".model", ".jinja", ".txt", ".gguf"})
"""Of the files of a checkpoint or an adapter that a build may read."""
PACKAGES: Final = ("edgekit", "edgekit.converters", "edgekit.profiles", "edgekit.runtimes")


def inputs(path: Path) -> list[Path]:
    """All files that a build may read of a checkpoint, an adapter, or a .gguf file with its further parts."""
    if path.is_file():
        return [path.with_name(name) for name in parts_of(path.name)]
    require_folder(path, "the checkpoint or adapter")
    return sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())


def beside(spec: BuildSpec) -> list[Path]:
    """Files of a build besides its models: a matrix, or data to compute one on; a recipe; what is evaluated on."""
    every = (spec.imatrix, spec.calibration, spec.recipe, spec.trial.task, spec.trial.text)
    return [path for path in every if path]


def key(spec: BuildSpec, digests: Digests) -> str:
    """The key of what a spec makes, 64 hexadecimal digits; sources are hashed, those that are known are not."""
    sources = [(spec.base, None), *spec.adapters, *((path, None) for path in beside(spec))]
    everything = {
        "sources": [
            [real(path).name, weight, [[file.name, digests.of(file)] for file in inputs(path)]]
            for path, weight in sources
        ],
        "recipe": _recipe(spec),
        "tools": tools(spec.format),
        "code": _code(),
    }
    return hashlib.sha256(msgspec.json.encode(everything, order="deterministic")).hexdigest()


def _recipe(spec: BuildSpec) -> dict[str, Any]:
    left_out = {"base", "out", "adapters", "imatrix", "calibration", "recipe", "llama_cpp", "threads", "force",
                "trial"}  # fmt: skip
    found = {name: getattr(spec, name) for name in spec.__dataclass_fields__ if name not in left_out}
    return found | {"trial": _trial(spec)}


def _trial(spec: BuildSpec) -> dict[str, Any]:
    """How the one bundle of a spec is measured and judged; with the machine where its speed is."""
    trial = spec.trial
    gates = trial.gates_for(spec.devices[0].name if spec.devices else None)
    found: dict[str, Any] = {
        "task": trial.task and trial.task.name,
        "text": trial.text and trial.text.name,
        "gates": [gate.text for gate in gates],
        "chunks": trial.chunks,
        "ctx": trial.ctx,
        "reference": trial.reference_type,
    }
    if asks_speed(gates):
        from edgekit.evaluation import running

        found["machine"] = running.machine()
    return found


def _code() -> str:
    """Of edgekit itself: a version number doesn't tell its changes."""
    found = hashlib.sha256()
    for package in PACKAGES:
        root = Path(str(files(package)))
        for path in _sources(root):
            found.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def _sources(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _sources(path)
        elif path.suffix in {".py", ".toml"}:
            yield path
