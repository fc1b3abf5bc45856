"""GPTQ and AWQ by gptqmodel, calibrated on the user's data; on CUDA where there is a card, else on the CPU."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edgekit.converters import child
from edgekit.errors import EdgekitError, InputError
from edgekit.files import read_json
from edgekit.gptq_settings import GptqSettings

INSTALL: Final = "pip install 'edgekit[gptq]'"
NEEDED: Final = ("gptqmodel", "optimum", "torch", "transformers")
PACKAGES: Final = ("torch", "transformers", "gptqmodel", "optimum")
# gptqmodel gives up on machines with fewer cores than it counts on, unless it is told.
_ENVIRONMENT: Final = {"GPTQMODEL_CPU_WORKERS": "2"}
_PROGRESS: Final = re.compile(rb"edgekit: (layer \d+)")
_UNKNOWN: Final = ("not supported", "isn't supported", "Unrecognized")
_PATHS: Final = ("offload_to_disk_path",)
"""Of what gptqmodel notes in its configuration: where it worked."""


def check() -> None:
    """``RuntimeUnavailableError`` with what to install where gptqmodel is missing."""
    child.check(NEEDED, "GPTQ and AWQ", INSTALL)


def export(
    checkpoint: Path,
    out: Path,
    method: str,
    bits: int,
    settings: GptqSettings,
    sequences: Sequence[Sequence[int]],
    report: Callable[[str, int], None],
) -> child.Export:
    """Quantize a merged checkpoint to the folder ``out`` as transformers, gptqmodel and vLLM load it.

    ``sequences`` are the token ids of the calibration data. Raises ``RuntimeUnavailableError`` where packages are
    missing or don't fit each other, ``HardwareError`` where memory is short, ``UnsupportedModelError`` for a model that
    gptqmodel doesn't know, ``InputError`` with the end of what it said for anything else.
    """
    check()
    _check_widths(checkpoint, settings)
    job = {
        "checkpoint": str(checkpoint.absolute()), "out": str(out.absolute()), "method": method, "bits": bits,
        "group_size": settings.group_size, "act_order": settings.act_order,
        "symmetric": method == "gptq" if settings.symmetric is None else settings.symmetric,
        "sequences": [list(one) for one in sequences],
    }  # fmt: skip

    def arguments(_: Path) -> Sequence[str]:
        return ["-m", "edgekit.converters._gptqworker"]

    try:
        found = child.run(
            arguments, _PROGRESS, report, given=json.dumps(job).encode(), environment=_ENVIRONMENT
        )
    except child.Failed as error:
        raise _refused(checkpoint, method, bits, error.last) from error
    _tidy(checkpoint, out)
    return found


def _check_widths(checkpoint: Path, settings: GptqSettings) -> None:
    """Known before a weight is read: groups that rows can't be cut into."""
    config = read_json(checkpoint / "config.json")
    widths = [config.get(name) for name in ("hidden_size", "intermediate_size")]
    group = settings.group_size
    odd = [width for width in widths if isinstance(width, int) and group > 0 and width % group]
    if odd:
        fits = [size for size in (128, 64, 32, 16) if not any(w % size for w in widths if isinstance(w, int))]
        raise InputError(
            "groups that the model's rows can't be cut into", path=checkpoint / "config.json",
            found=f"rows of {odd[0]} and groups of {group}",
            expected=f"--gptq group_size={fits[0]}" if fits else "--gptq group_size=-1",
        )  # fmt: skip


def _refused(checkpoint: Path, method: str, bits: int, said: str) -> EdgekitError:
    return child.refused("gptqmodel", checkpoint, said, _UNKNOWN, PACKAGES, INSTALL) or InputError(
        "gptqmodel failed", path=checkpoint, found=said[:500], expected=f"{method.upper()} with {bits} bits"
    )


def _tidy(checkpoint: Path, out: Path) -> None:
    """Times and places are no part of a model; tokenizer and template stay as they came."""
    for path in [*out.glob("quant_log*.csv")]:
        path.unlink()
    for name in ("config.json", "quantize_config.json"):
        path = out / name
        value = read_json(path, limit=4 << 20)
        meta = value.get("quantization_config", value).get("meta") or {}
        for key in _PATHS:
            meta.pop(key, None)
        path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    child.keep_words(checkpoint, out, ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"))
