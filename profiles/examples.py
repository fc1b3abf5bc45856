"""A model to speak of where none was named."""

from __future__ import annotations

from typing import Final

from edgekit.profiles.choice import Artifact
from edgekit.profiles.predict import Shape

TYPICAL: Final = Artifact(
    "",
    "gguf",
    "Q4_K_M",
    Shape(
        file_bytes=807_694_464,
        weight_bytes=799_862_784,
        token_bytes=799_862_784,
        token_weights=1_235_814_400,
        token_kinds={"Q4_K": 830_472_192, "Q6_K": 405_274_624, "F32": 67_584},
        layers=16,
        kv_widths=(1024,) * 16,
        state_bytes=0,
        n_vocab=128_256,
        width=2048,
        ffn=8192,
        trained=131_072,
    ),
)
"""Llama 3.2 1B in Q4_K_M."""
