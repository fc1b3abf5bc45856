"""Where a bundle comes from: digests of everything that a build read, and the tools' versions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgekit import __version__, bundle
from edgekit.files import real, sha256
from edgekit.opening import Opened
from edgekit.overlay import files_read

_PACKED = ("gptqmodel", "torch", "transformers", "optimum", "numpy", "tokenizers")
TOOLS = {
    "gguf": ("llama-cpp-python", "gguf", "numpy", "tokenizers"),
    "onnx": (
        "onnxruntime-genai",
        "onnxruntime",
        "onnx",
        "onnx-ir",
        "torch",
        "transformers",
        "numpy",
        "tokenizers",
    ),
    "gptq": _PACKED,
    "awq": _PACKED,
}
"""Packages by a bundle's format."""
BESIDE = (
    "model.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
    "tekken.json", "added_tokens.json", "tokenizer_config.json", "chat_template.jinja",
)  # fmt: skip
"""Files of a checkpoint that a build reads besides the weights, where they are."""


def provenance(inputs: Opened, stop: threading.Event) -> bundle.Provenance:
    """Hash every input; given up with ``CancelledError`` when ``stop`` is set."""
    spec = inputs.spec
    files = [file.path for file in inputs.base.files]
    if spec.base.is_file():
        base = _source(spec.base.parent, files, None, stop, spec.base.stem)
    else:
        vocabulary = inputs.layout.vocabulary
        names = dict.fromkeys([*BESIDE, *([vocabulary.file] if vocabulary else [])])
        there = [path for name in names if (path := spec.base / name).exists()]
        base = _source(spec.base, [*there, *files], None, stop)
    adapters = [
        _source(a.folder, files_read(a.folder, a.file.path, inputs.merged.tokenizer), weight, stop)
        for a, weight in inputs.adapters
    ]
    return bundle.Provenance(base, adapters, _calibration(inputs, stop), tools(spec.format), spec.licence)


def tools(form: str) -> dict[str, str]:
    """Versions of what the bytes of a build in a format depend on."""
    return {"edgekit": __version__} | {name: found for name in TOOLS[form] if (found := _version(name))}


def _calibration(inputs: Opened, stop: threading.Event) -> bundle.Calibration | None:
    matrix = inputs.matrix
    if matrix is None:
        return None
    source = _source(matrix.path.parent, [matrix.path], None, stop, matrix.path.stem)
    if matrix.tokens is None:
        return bundle.Calibration(source.name, source.files)
    return bundle.Calibration(
        matrix.dataset or source.name, source.files, None, matrix.tokens.count, matrix.tokens.sha256
    )


def _source(
    folder: Path, files: Sequence[Path], weight: float | None, stop: threading.Event, name: str | None = None
) -> bundle.Source:
    def going_on(_: int) -> None:
        if stop.is_set():
            raise CancelledError

    listed = [bundle.File(path.name, path.stat().st_size, sha256(path, going_on)) for path in files]
    return bundle.Source(name or real(folder).name, listed, weight)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
