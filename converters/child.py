"""A package's own converter in a process of its own: torch and the weights leave with it, and its peak is measured."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from edgekit.errors import EdgekitError, HardwareError, RuntimeUnavailableError, UnsupportedModelError
from edgekit.files import read_json

_OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    "PYTHONDONTWRITEBYTECODE": "1",
}  # fmt: skip
"""Nothing is fetched, and nothing is left where the packages are."""

_ENDED: Final = "it was ended, which the system does where memory is short"
_SHORT: Final = (_ENDED, "MemoryError", "OutOfMemory", "out of memory", "can't allocate memory")


@dataclass(frozen=True)
class Export:
    """How an export went: seconds, and the most bytes of memory that it held, where the system tells."""

    seconds: float
    peak: int | None


class Failed(Exception):
    """The process ended badly."""

    def __init__(self, status: int, said: Sequence[str]) -> None:
        super().__init__(status)
        errors = (at for at in reversed(range(len(said))) if "Error" in said[at] or "Exception" in said[at])
        at = next(errors, len(said) - 1)
        self.last = said[at] if said else f"exit status {status}"
        """What it said of the reason."""
        if self.last == "AssertionError" and at:  # what was asserted stands above it
            self.last += f": {said[at - 1]}"
        if status == -9:
            self.last = _ENDED


def check(needed: Sequence[str], what: str, install: str) -> None:
    """``RuntimeUnavailableError`` with what to install where a package is missing."""
    if missing := [name for name in needed if find_spec(name) is None]:
        raise RuntimeUnavailableError(
            f"building {what} takes packages that aren't installed",
            found=", ".join(missing),
            next_step=install,
        )


def run(
    arguments: Callable[[Path], Sequence[str]],
    progress: re.Pattern[bytes],
    report: Callable[[str, int], None],
    *,
    given: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Export:
    """Run Python with arguments for a temporary folder; ``report`` hears of what ``progress`` finds in its lines.

    Raises ``Failed`` with what was said last. An interrupt ends the process.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder, tempfile.TemporaryFile() as stdin:
        stdin.write(given)
        stdin.seek(0)
        # -P: the folder that this runs in must not be searched for modules.
        with subprocess.Popen(
            [sys.executable, "-P", *arguments(Path(folder))], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=stdin, cwd=folder, env=os.environ | _OFFLINE | dict(environment or {}),
        ) as process:  # fmt: skip
            try:
                said = _listen(process, progress, report)
                status, peak = _ended(process)
            finally:
                if process.returncode is None:
                    process.kill()
    if status:
        raise Failed(status, said)
    return Export(time.perf_counter() - began, peak)


def refused(
    tool: str, checkpoint: Path, said: str, unknown: Sequence[str], packages: Sequence[str], install: str
) -> EdgekitError | None:
    """What any tool may say last: that it doesn't know the model (in one of its words for it), that memory is short, or
    that its packages don't load."""
    config = checkpoint / "config.json"
    if any(words in said for words in unknown):
        named = read_json(config).get("architectures") or ["nothing"]
        return UnsupportedModelError(
            f"{tool} doesn't take this model", path=config,
            found=f"architectures {', '.join(map(str, named))}; it says: {said[:300]}",
            next_step="build GGUF for it: --format gguf",
        )  # fmt: skip
    if any(words in said for words in _SHORT):
        return HardwareError(
            f"{tool} had too little memory", path=checkpoint, found=said[:300],
            next_step="build on a larger machine: the bundle is the same; or GGUF here: --format gguf",
        )  # fmt: skip
    return _misfit(said, packages, install)


def keep_words(checkpoint: Path, out: Path, names: Sequence[str]) -> None:
    """The tokenizer and template as they came: converters write transformers' version of them."""
    for name in names:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, out / name)


def _misfit(said: str, packages: Sequence[str], install: str) -> RuntimeUnavailableError | None:
    """Where a package didn't load: which versions are installed, for whoever has to find out which two disagree."""
    if "ImportError" not in said and "ModuleNotFoundError" not in said:
        return None
    found = []
    for name in packages:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return RuntimeUnavailableError(
        "a package doesn't load: those that are installed don't fit each other",
        found=f"{said[:300]}; {', '.join(found)}", next_step=f"{install}, in an environment of its own",
    )  # fmt: skip


def _listen(
    process: subprocess.Popen[bytes], progress: re.Pattern[bytes], report: Callable[[str, int], None]
) -> list[str]:
    """The last lines that it says."""
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        if found := progress.search(line):
            report(found[1].decode().strip().lower(), 1)
        said = [*said[-39:], line.decode("utf-8", "replace").rpartition("\r")[2].strip()]
    return [line for line in said if line.strip("^~ ")]


def _ended(process: subprocess.Popen[bytes]) -> tuple[int, int | None]:
    """Its exit status, and the most memory that it held."""
    if not hasattr(os, "wait4"):
        return process.wait(), None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
