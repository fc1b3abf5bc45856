"""Which weights llama.cpp keeps a second time on a CPU, in an order that its kernels read faster.

From ggml-cpu/repack.cpp (ggml_repack_get_optimal_repack_type) and ggml-cpu/amx (supports_op, get_row_size).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

AMX: Final = {
    "Q4_0": 1.0, "Q4_1": 1.0, "Q6_K": 1.0, "F16": 1.0, "Q8_0": 38 / 34, "Q4_K": 148 / 144, "Q5_K": 180 / 176,
    "IQ4_XS": 138 / 136,
}  # fmt: skip
"""Size of a copy for AMX over the original's, by type; experts aren't copied for it."""
PACKED: Final = {
    "AVX-512": ("Q2_K",),
    "AVX2": ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4"),
    "dotprod": ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4"),
}
"""Types that have an order of their own for an instruction set; i8mm's are dotprod's."""


def copies(matrices: Mapping[str, int], experts: Mapping[str, int], simd: Collection[str]) -> int:
    """Bytes of copies, of matrices and of stacks of experts given as bytes by type."""
    packed = {kind for name, kinds in PACKED.items() if name in simd for kind in kinds}
    own = dict.fromkeys(packed, 1.0)
    amx = AMX if "AMX INT8" in simd else {}
    found = sum(nbytes * {**own, **amx}.get(kind, 0.0) for kind, nbytes in matrices.items())
    return int(found + sum(nbytes for kind, nbytes in experts.items() if kind in packed))
