"""Models that machines are asked to run, by their shapes."""

from __future__ import annotations

from edgekit.profiles.choice import Artifact
from edgekit.profiles.examples import TYPICAL
from edgekit.profiles.predict import Shape


def llama(billions: float, layers: int, width: int, ffn: int, kv: int, bits: float, kind: str) -> Artifact:
    """A Llama 3.1 with its published sizes, quantized to so many bits a weight."""
    vocabulary, weights = 128_256, billions * 1e9
    read = weights - vocabulary * width
    shape = Shape(
        file_bytes=int(weights * bits / 8),
        weight_bytes=int(weights * bits / 8),
        token_bytes=int(read * bits / 8),
        token_weights=int(read),
        token_kinds={kind.removesuffix("_M").removesuffix("_S"): read},
        layers=layers,
        kv_widths=(kv,) * layers,
        state_bytes=0,
        n_vocab=vocabulary,
        width=width,
        ffn=ffn,
        trained=131_072,
    )
    return Artifact(f"{billions:.0f}B-{kind}", "gguf", kind, shape)


ONE = TYPICAL
EIGHT = llama(8.03, 32, 4096, 14_336, 2048, 4.9, "Q4_K_M")
EIGHT_Q8 = llama(8.03, 32, 4096, 14_336, 2048, 8.5, "Q8_0")
SEVENTY = llama(70.6, 80, 8192, 28_672, 2048, 4.82, "Q4_K_M")
