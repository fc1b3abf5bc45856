"""How much quantizations lose, best first.

The order is that of the perplexities that llama-quantize lists for Llama 3 8B (llama.cpp, tools/quantize/quantize.cpp):
Q8_0 +0.003, Q6_K +0.022, Q5_K_M +0.057, Q5_K_S +0.105, Q5_1 +0.106, Q5_0 +0.132, Q4_K_M +0.175, Q4_K_S +0.269, Q4_1 +0.451,
Q4_0 +0.469, Q3_K_L +0.556, Q3_K_M +0.657, Q3_K_S +1.632, Q2_K +3.520; it has none for the others, which lie by their bits.
16 bits have no figure of their own: F16 is off by +0.002 itself, so Q8_0 counts as equal to it. A model's own measured
loss is better than any of this.
"""

from __future__ import annotations

from typing import Final

LOSSLESS: Final = ("Q8_0", "BF16", "F16", "F32")
"""Nothing measurable is lost; the smallest of them is the best."""
ORDER: Final = (
    *LOSSLESS, "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "IQ4_NL", "IQ4_XS", "MXFP4_MOE", "Q4_1",
    "Q4_0", "Q3_K_L", "Q3_K_M", "IQ3_M", "IQ3_S", "IQ3_XS", "Q3_K_S", "IQ3_XXS", "Q2_K", "Q2_K_S", "IQ2_M", "IQ2_S",
    "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0", "Q1_0",
)  # fmt: skip
TRAINED_FOR: Final = frozenset({"TQ2_0", "TQ1_0", "Q1_0"})
"""Of use for models only whose weights were trained to have so few values."""


OTHERS: Final = {
    "FP32": "F32",
    "FP16": "F16",
    "INT8": "Q8_0",
    "INT4": "Q4_0",
    "INT3": "Q3_K_M",
    "INT2": "Q2_K",
}
"""Of ONNX, GPTQ and AWQ: the GGUF type beside which they lie (docs/formats.md has what was measured)."""


def rank(quantization: str) -> int:
    """Place in ``ORDER``, the same for all that are lossless; those that aren't in it come last."""
    quantization = OTHERS.get(quantization, quantization)
    if quantization in LOSSLESS:
        return 0
    return ORDER.index(quantization) if quantization in ORDER else len(ORDER)
