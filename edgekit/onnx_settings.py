"""What an ONNX export is asked for beside its precision."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from edgekit.errors import InputError

PRECISIONS: Final = ("INT4", "INT8", "FP16", "FP32")
Provider = Literal["cpu", "cuda", "dml", "webgpu", "NvTensorRtRtx"]
BUILDABLE: Final = {
    "cpu": ("INT4", "INT8", "FP32"),
    "cuda": ("INT4", "INT8", "FP16", "FP32"),
    "dml": ("INT4", "FP16"),
    "webgpu": ("INT4", "INT8", "FP16"),
    "NvTensorRtRtx": ("INT4", "FP16"),
}
"""Precisions that onnxruntime-genai's builder makes for an execution provider."""


class OnnxSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For INT4 and INT8 how weights are rounded; for all, on what the graph is to run."""

    provider: Provider = "cpu"
    block_size: Literal[16, 32, 64, 128, 256] = 32
    """Weights that share a scale."""
    symmetric: bool = True
    accuracy_level: Annotated[int, msgspec.Meta(ge=0, le=4)] | None = None
    """Of activations in products: 4 is int8, 1 is fp32; unset: 4 on a CPU."""
    algorithm: Literal["rtn", "k_quant", "k_quant_mixed"] = "rtn"
    """Round to nearest; k_quant fits scales and offsets as llama.cpp's K types do, mixed keeps sensitive layers in INT8."""


def precision(name: str, settings: OnnxSettings) -> str:
    """A precision as the builder knows it; ``InputError`` for one that it doesn't make for the provider."""
    found = {"F32": "FP32", "F16": "FP16"}.get(name.upper(), name.upper())
    if found not in BUILDABLE[settings.provider]:
        raise InputError(
            "no ONNX model can be built so", found=f"{name} for {settings.provider}",
            expected=", ".join(BUILDABLE[settings.provider]),
        )  # fmt: skip
    return found
