"""ONNX by onnxruntime-genai's model builder, in a process of its own: torch and the weights leave with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from edgekit.errors import InputError, RuntimeUnavailableError, UnsupportedModelError
from edgekit.files import read_json
from edgekit.onnx_settings import OnnxSettings

INSTALL: Final = "pip install 'edgekit[onnx-build]'"
NEEDED: Final = ("onnxruntime_genai", "onnxruntime", "onnx", "onnx_ir", "torch", "transformers")
_LAYER: Final = re.compile(rb"Reading layer (\d+)|Reading (\w+ \w+)|Saving (\w+) ")
_REFUSED: Final = (
    "is not currently supported",
    "not supported",
    "NotImplementedError",
    "Unrecognized configuration",
)


@dataclass(frozen=True)
class Export:
    """How an export went: seconds, and the most bytes of memory that it held, where the system tells."""

    seconds: float
    peak: int | None


def check() -> None:
    """``RuntimeUnavailableError`` with what to install where the builder is missing."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise RuntimeUnavailableError(
            "building ONNX takes packages that aren't installed", found=", ".join(missing), next_step=INSTALL
        )


def export(
    checkpoint: Path, out: Path, precision: str, settings: OnnxSettings, report: Callable[[str, int], None]
) -> Export:
    """Write a merged checkpoint to the folder ``out`` as onnxruntime-genai has it; ``report`` hears of each layer.

    Raises ``UnsupportedModelError`` for a model that the builder doesn't know, ``RuntimeUnavailableError`` where its
    packages are missing or don't fit each other, ``InputError`` with the end of what it said for anything else. The same checkpoint gives the same bytes.
    """
    check()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="edgekit-") as cache:
        command = _command(checkpoint, out, precision, settings, Path(cache))
        # -P: the checkpoint's folder must not be searched for modules; nothing is fetched, and no code of a model run.
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            cwd=cache, env=environment,
        ) as process:  # fmt: skip
            try:
                said = _listen(process, report)
                status, peak = _ended(process)
            finally:
                if process.returncode is None:
                    process.kill()
    if status:
        raise _refused(checkpoint, precision, settings, status, said)
    _keep_words(checkpoint, out)
    return Export(time.perf_counter() - began, peak)


def _command(checkpoint: Path, out: Path, precision: str, settings: OnnxSettings, cache: Path) -> list[str]:
    options = ["hf_remote=false", "hf_token=false"]
    if precision in ("INT4", "INT8"):
        options += [
            f"block_size={settings.block_size}",
            f"is_symmetric={str(settings.symmetric).lower()}",
            f"algo_config={settings.algorithm}",
        ]
        if settings.accuracy_level is not None:
            options.append(f"accuracy_level={settings.accuracy_level}")
    return [
        sys.executable, "-P", "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint.absolute()),
        "-o", str(out.absolute()), "-p", precision.lower(), "-e", settings.provider, "-c", str(cache),
        "--extra_options", *options,
    ]  # fmt: skip


def _listen(process: subprocess.Popen[bytes], report: Callable[[str, int], None]) -> list[str]:
    """The last lines that the builder says, each layer reported as it comes."""
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        if found := _LAYER.match(line):
            report((found[0]).decode().strip().lower(), 1)
        said = [*said[-39:], line.decode("utf-8", "replace").rpartition("\r")[2].strip()]
    return [line for line in said if line]


def _ended(process: subprocess.Popen[bytes]) -> tuple[int, int | None]:
    """Its exit status, and the most memory that it held."""
    if not hasattr(os, "wait4"):
        return process.wait(), None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _refused(
    checkpoint: Path, precision: str, settings: OnnxSettings, status: int, said: list[str]
) -> UnsupportedModelError | RuntimeUnavailableError | InputError:
    config = checkpoint / "config.json"
    last = next(
        (line for line in reversed(said) if "Error" in line or "Exception" in line), said[-1] if said else ""
    )
    if any(words in last for words in _REFUSED):
        named = read_json(config).get("architectures") or ["nothing"]
        return UnsupportedModelError(
            "onnxruntime-genai's builder doesn't take this model", path=config,
            found=f"architectures {', '.join(map(str, named))}; it says: {last[:300]}",
            next_step="build GGUF for it: --format gguf",
        )  # fmt: skip
    if "ImportError" in last or "ModuleNotFoundError" in last:
        return RuntimeUnavailableError(
            "what builds ONNX doesn't load: its packages don't fit each other",
            found=f"{last[:300]}; {_versions()}", next_step=f"{INSTALL}, in an environment of its own",
        )  # fmt: skip
    if status == -9:
        last = "it was ended, which the system does where memory is short"
    return InputError(
        "onnxruntime-genai's builder failed", path=checkpoint, found=last[:500] or f"exit status {status}",
        expected=f"an ONNX model in {precision} for {settings.provider}",
        # Packing of zero points fails where a row has an odd number of blocks (onnxruntime-genai 0.18).
        next_step="--onnx symmetric=true and algorithm=rtn take every width" if "reshape" in last else None,
    )  # fmt: skip


def _versions() -> str:
    """Which of them are installed, for whoever has to find out which two disagree."""
    found = []
    for name in ("torch", "transformers", "onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def _keep_words(checkpoint: Path, out: Path) -> None:
    """The tokenizer and template as they came: the builder writes transformers' version of them."""
    for name in ("tokenizer.json", "chat_template.jinja"):
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, out / name)
