"""Models of other families: the merged checkpoint goes to the user's own llama.cpp converter, and comes back as GGUF."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import InputError, RuntimeUnavailableError, UnsupportedModelError
from edgekit.files import inside, read_json, require_file, require_folder
from edgekit.progress import Progress

if TYPE_CHECKING:
    from edgekit.tensors import TensorSource

SCRIPT = "convert_hf_to_gguf.py"
TIMEOUT = 4 * 3600
"""Seconds for the converter: it reads and writes the whole model, perhaps on a slow disk."""


def check(llama_cpp: Path) -> Path:
    """The converter in a llama.cpp source folder; ``InputError`` if there is none."""
    return require_file(require_folder(llama_cpp, "llama.cpp's folder") / SCRIPT, "llama.cpp's converter")


def convert(
    merged: TensorSource, beside: Path, llama_cpp: Path, work: Path, name: str, progress: Progress
) -> Path:
    """Stream ``merged`` into ``work`` as a checkpoint, have it converted there, and drop it; returns the GGUF file.

    ``beside`` holds the tokenizer and templates. The converter is the user's code, run by its folder's own Python
    environment (.venv or venv) where there is one; it needs torch and transformers. Raises ``InputError`` with the
    end of what it said when it fails.
    """
    from edgekit.converters.save import save

    script = check(llama_cpp)
    _check_tokenizer(beside)
    progress.stage("merging for llama.cpp", sum(merged.info(n).size for n in merged.names()))
    # The folder's name becomes the model's.
    checkpoint, artifact = work / "merged" / name, work / "converted.gguf"
    checkpoint.mkdir(parents=True)
    save(merged, beside, checkpoint, report=progress.advance)
    progress.stage("llama.cpp's converter", 1)
    command = [
        _python(llama_cpp),
        str(script),
        str(checkpoint),
        "--outfile",
        str(artifact),
        "--outtype",
        "auto",
    ]
    done = _run(command, script)
    shutil.rmtree(checkpoint)
    if done.returncode != 0 or not artifact.exists():
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise InputError(
            "llama.cpp's converter doesn't convert this model either",
            path=script,
            found="; ".join(lines[-2:]) or f"exit status {done.returncode}, no output",
            next_step=f"run it by hand, with a Python that has its requirements: {' '.join(command[:2])} …",
        )
    progress.advance(SCRIPT, 1)
    return artifact


def _run(command: list[str], script: Path) -> subprocess.CompletedProcess[bytes]:
    """Run the converter, which fetches nothing: what it converts is all there."""
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    try:
        return subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False, env=offline)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeUnavailableError(
            "llama.cpp's converter can't be run", path=script, found=str(error)
        ) from error


def _check_tokenizer(folder: Path) -> None:
    """The converter opens tokenizers with trust_remote_code: one that names code must not come before it."""
    path = folder / "tokenizer_config.json"
    if path.exists() and "auto_map" in read_json(inside(folder, path.name)):
        raise UnsupportedModelError(
            "the tokenizer asks to run code of its own (auto_map)",
            path=path,
            expected="a tokenizer of a known class; edgekit never has a checkpoint's code run",
        )


def _python(llama_cpp: Path) -> str:
    own = (llama_cpp / folder / "bin" / "python" for folder in (".venv", "venv"))
    return next((str(path) for path in own if os.access(path, os.X_OK)), sys.executable)
