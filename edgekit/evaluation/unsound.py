"""Models whose logits are not numbers: which tensor is to blame."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from edgekit.errors import BundleError, InputError, UnsupportedModelError

_PART: Final = 1 << 22
"""Values that are looked at at once."""


def not_finite(path: Path, found: str) -> BundleError:
    """The error for a model (a .gguf file) whose logits are NaN or infinite, with the first tensor that is so."""
    tensor = first_unsound(path)
    return BundleError(
        "the model's logits are not finite",
        path=path,
        found=f"{found}; tensor {tensor} holds NaN or infinite weights" if tensor else found,
        expected="numbers",
        next_step="build it again: edgekit build refuses such weights"
        if tensor
        else "its weights are finite, but too large to compute with: check the checkpoint, or take BF16",
    )


def first_unsound(path: Path) -> str | None:
    """The name of the first tensor of a .gguf file with a NaN or an infinity; None where there is none to be found."""
    from edgekit.converters.gguf.gguf_source import GgufSource

    try:
        source = GgufSource(path)
    except (InputError, UnsupportedModelError):
        return None
    try:
        for name in source.names():
            info = source.info(name)
            step = max(1, _PART * info.rows // max(1, info.size))
            for start in range(0, info.rows, step):
                if not np.isfinite(source.read(name, slice(start, start + step))).all():
                    return name
        return None
    finally:
        source.close()
