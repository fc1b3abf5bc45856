"""8-bit float weights and the scales that make them whole: per tensor, per row, or per block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import InputError, UnsupportedModelError
from edgekit.tensors import Float32, TensorInfo

SCALE_SUFFIXES = ("_scale_inv", "_scale")
"""Beside ``x.weight``: ``x.weight_scale_inv`` (DeepSeek, blocks) or ``x.weight_scale`` (compressed-tensors)."""

IGNORED_SUFFIXES = (".input_scale", ".output_scale", ".activation_scale", ".k_scale", ".v_scale")
"""Scales of activations and of the KV cache: they don't touch the weights."""

FLOAT_METHODS = {"fp8", "fbgemm_fp8", "compressed-tensors"}
"""Formats whose weights may be plain 8-bit floats; what else they pack is refused by its dtype."""


def check_quantization(config: Mapping[str, Any], path: Path) -> None:
    """Let 8-bit float checkpoints through, refuse bases that a quantizer has packed."""
    block = config.get("quantization_config") or config.get("compression_config")
    if not block:
        return
    method = str(block.get("quant_method", "unknown")) if isinstance(block, dict) else "unknown"
    if method in FLOAT_METHODS:
        return
    raise UnsupportedModelError(
        f"the base is already quantized ({method})",
        path=path,
        found=f"quantization_config with quant_method {method!r}",
        expected="a 16- or 32-bit checkpoint, or 8-bit floats with scales",
        next_step="use the 16-bit checkpoint that this one was made from; a LoRA trained on it merges there",
    )


@dataclass(frozen=True)
class Scale:
    """The multiplier of one weight: shape ``(1,)``, ``(rows, 1)``, or one per ``block`` (rows, columns)."""

    values: Float32
    block: tuple[int, int] | None

    def apply(self, chunk: Float32, first_row: int) -> None:
        """Scale rows ``first_row…`` of the weight in place."""
        if self.values.size == 1:
            chunk *= self.values.reshape(())
        elif self.block is None:
            chunk *= self.values[first_row : first_row + len(chunk)]
        else:
            height, width = self.block
            rows = (np.arange(first_row, first_row + len(chunk))) // height
            columns = np.arange(chunk.shape[1]) // width
            chunk *= self.values[rows][:, columns]


def make_scale(
    values: Float32, weight: TensorInfo, name: str, path: Path, config: Mapping[str, Any]
) -> Scale:
    """The scale as it applies to ``weight``; a shape that fits no known layout is an ``InputError``."""
    if values.size == 1:
        return Scale(values, None)
    rows, columns = weight.shape if len(weight.shape) == 2 else (0, 0)
    if values.shape in {(rows, 1), (rows,)}:
        return Scale(values.reshape(rows, 1), None)
    block = (config.get("quantization_config") or {}).get("weight_block_size")
    if isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block):
        height, width = block
        if values.shape == (-(-rows // height), -(-columns // width)):
            return Scale(values, (height, width))
    raise InputError(
        f"the scale of {name!r} fits no known layout",
        path=path,
        found=f"a scale of shape {values.shape} for a weight of shape {weight.shape}, blocks {block}",
        expected="one scale, one per row, or one per block",
    )
