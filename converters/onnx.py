"""ONNX by onnxruntime-genai's model builder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edgekit.converters import child
from edgekit.errors import EdgekitError, InputError
from edgekit.onnx_settings import OnnxSettings

INSTALL: Final = "pip install 'edgekit[onnx-build]'"
NEEDED: Final = ("onnxruntime_genai", "onnxruntime", "onnx", "onnx_ir", "torch", "transformers")
PACKAGES: Final = ("torch", "transformers", "onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir")
_PROGRESS: Final = re.compile(rb"^(Reading layer \d+|Reading \w+ \w+|Saving \w+ )")
_UNKNOWN: Final = (
    "is not currently supported",
    "not supported",
    "NotImplementedError",
    "Unrecognized configuration",
)


def check() -> None:
    """``RuntimeUnavailableError`` with what to install where the builder is missing."""
    child.check(NEEDED, "ONNX", INSTALL)


def export(
    checkpoint: Path, out: Path, precision: str, settings: OnnxSettings, report: Callable[[str, int], None]
) -> child.Export:
    """Write a merged checkpoint to the folder ``out`` as onnxruntime-genai has it; ``report`` hears of each layer.

    Raises ``UnsupportedModelError`` for a model that the builder doesn't know, ``HardwareError`` where memory is short, ``RuntimeUnavailableError`` where its
    packages are missing or don't fit each other, ``InputError`` with the end of what it said for anything else.
    The same checkpoint gives the same bytes.
    """
    check()

    def arguments(cache: Path) -> Sequence[str]:
        return _arguments(checkpoint, out, precision, settings, cache)

    try:
        found = child.run(arguments, _PROGRESS, report)
    except child.Failed as error:
        raise _refused(checkpoint, precision, settings, error.last) from error
    child.keep_words(checkpoint, out, ("tokenizer.json", "chat_template.jinja"))
    return found


def _arguments(
    checkpoint: Path, out: Path, precision: str, settings: OnnxSettings, cache: Path
) -> Sequence[str]:
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
        "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint.absolute()), "-o", str(out.absolute()),
        "-p", precision.lower(), "-e", settings.provider, "-c", str(cache), "--extra_options", *options,
    ]  # fmt: skip


def _refused(checkpoint: Path, precision: str, settings: OnnxSettings, said: str) -> EdgekitError:
    tool = "onnxruntime-genai's builder"
    return child.refused(tool, checkpoint, said, _UNKNOWN, PACKAGES, INSTALL) or InputError(
        f"{tool} failed", path=checkpoint, found=said[:500],
        expected=f"an ONNX model in {precision} for {settings.provider}",
        # Packing of zero points fails where a row has an odd number of blocks (onnxruntime-genai 0.18).
        next_step="--onnx symmetric=true and algorithm=rtn take every width" if "reshape" in said else None,
    )  # fmt: skip
