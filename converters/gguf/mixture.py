"""llama.cpp's mixtures: which type each tensor of a preset gets, by its part in the model and its layer.

The rules are those of src/llama-quant.cpp; a test compares every preset's types with llama_model_quantize's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from math import prod

from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as Q

from edgekit.errors import InputError

FLOATS = frozenset({Q.F32, Q.F16, Q.BF16})

_PARTS = ("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight", "attn_k.weight", "attn_q.weight",
          "attn_output.weight", "ffn_up", "ffn_gate", "ffn_down")  # fmt: skip
_VALUES = frozenset({"attn_qkv", "attn_kv_b", "attn_v"})
_EMBEDDINGS = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})

_KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
    "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight",
    "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight",
    "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
    "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight", "attn_rel_b.weight",
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
    "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
"""Parts of names of tensors that are never quantized: small ones, and those that choose experts."""

_SMALL = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"})
_UPPER_SMALL = frozenset({"IQ2_S", "IQ2_M"})
_EIGHT_EXPERTS_OUTPUT = frozenset(
    {
        "Q2_K",
        "IQ3_XS",
        "IQ3_XXS",
        "Q3_K_S",
        "Q3_K_M",
        "IQ4_NL",
        "Q4_K_S",
        "Q4_K_M",
        "IQ3_S",
        "IQ3_M",
        "IQ4_XS",
    }
)
_OUTPUT_PROJECTION = {"Q2_K": Q.Q3_K, "IQ3_XXS": Q.IQ3_S, "Q3_K_M": Q.Q4_K, "Q3_K_L": Q.Q5_K, "IQ3_M": Q.Q4_K}
_LOOKUP = {
    "IQ2_XXS": Q.Q2_K, "IQ2_XS": Q.Q2_K, "IQ1_S": Q.Q2_K, "IQ1_M": Q.Q2_K, "IQ2_S": Q.IQ3_S, "IQ2_M": Q.IQ3_S,
    "IQ3_XXS": Q.IQ3_S, "TQ1_0": Q.Q4_K, "TQ2_0": Q.Q4_K,
}  # fmt: skip
"""Embeddings that aren't the output head too."""


@dataclass(frozen=True)
class Preset:
    """A preset's usual name, its file type in GGUF, and the type that most tensors get."""

    name: str
    file_type: LlamaFileType
    default: Q


@dataclass(frozen=True)
class Model:
    """What the mixture looks at besides names and shapes."""

    layers: int
    heads: int
    kv_heads: int
    experts: int = 0
    arch: str = "llama"

    @property
    def many_queries(self) -> bool:
        """Whether at least four query heads share a key-value head, so that attn_v is small."""
        return self.kv_heads > 0 and self.heads // self.kv_heads >= 4

    @property
    def is_70b(self) -> bool:
        """A model of 70B parameters, as llama.cpp knows them: by the number of layers."""
        if self.arch == "jais2":
            return self.layers == 68
        grouped = self.arch in {"qwen2", "olmo", "deci"} or (
            self.arch == "llama" and self.heads != self.kv_heads
        )
        return self.layers == 80 and grouped


def is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    """Matrices are; norms, vectors (one row counts as one) and small tensors stay as they are."""
    if len(shape) < 2 or prod(shape[:-1]) <= 1 or not name.endswith("weight"):
        return False
    whole = name in {"position_embd.weight", "token_types.weight"}
    return not whole and not any(part in name for part in _KEPT)


class Mixture:
    """A preset's choice for one model's tensors, asked in llama.cpp's order: some rules count."""

    def __init__(self, chosen: Preset, model: Model, names: Collection[str], matrix: bool) -> None:
        self.preset, self.default, self.model, self.matrix = chosen.name, chosen.default, model, matrix
        self.tied = "output.weight" not in names
        self.values = sum(_part(name) in _VALUES for name in names)
        self.seen: Counter[str] = Counter()

    def pick(self, name: str, shape: tuple[int, ...]) -> Q:
        """The type of one tensor that is quantized, by its name and numpy's shape."""
        part = "token_embd" if name in _EMBEDDINGS else _part(name)
        if self.default in FLOATS:
            return self.default
        if name == "output.weight" or (self.tied and part == "token_embd"):
            return self._output(shape[-1])
        if self.preset == "MXFP4_MOE":
            return Q.MXFP4 if len(shape) > 2 and shape[-3] > 1 else Q.Q8_0
        if part == "token_embd":
            return _LOOKUP.get(self.preset, self.default)
        place = self._place(name, part)
        if self.preset in _SMALL:
            return self._small(part, place)
        if part in _VALUES:
            return self._attn_v(place)
        return self._other(part, place)

    def _place(self, name: str, part: str) -> int:
        """Which of its kind a tensor is; among experts, its layer."""
        group = "attn_v" if part in _VALUES else part
        self.seen[group] += 1
        if not part.startswith("ffn_") or self.model.experts < 2 or self.preset in _SMALL:
            return self.seen[group] - 1
        match = re.match(r"blk\.(\d+)\.", name)
        if not match or int(match[1]) >= self.model.layers:
            raise InputError(f"tensor {name!r} is of no layer", expected=f"blk.N. below {self.model.layers}")
        return int(match[1])

    def _output(self, columns: int) -> Q:
        if self.preset == "MXFP4_MOE" or self.model.arch == "falcon" or self.default is Q.Q8_0:
            return Q.Q8_0
        if columns % GGML_QUANT_SIZES[self.default][0]:
            return Q.Q8_0
        return Q.Q5_K if self.preset in _SMALL or self.preset == "IQ3_XXS" else Q.Q6_K

    def _small(self, part: str, i: int) -> Q:
        """Presets of about two bits and below."""
        experts, better = self.model.experts, Q.IQ3_S if self.preset in _UPPER_SMALL else Q.Q2_K
        if part in _VALUES:
            return Q.Q4_K if self.model.many_queries or experts >= 4 else better
        if part == "attn_k" and experts == 8:
            return Q.Q4_K
        if part == "ffn_down" and i < self.model.layers // 8:
            return better
        if part == "attn_output" and experts == 8:
            return Q.Q5_K
        if part == "attn_output" and self.preset in {"IQ1_S", "IQ1_M"}:
            return Q.IQ2_XXS
        return Q.IQ3_S if part == "attn_output" and self.preset in _UPPER_SMALL else self.default

    def _attn_v(self, i: int) -> Q:
        kind, many = self.default, self.model.many_queries
        match self.preset:
            case "Q2_K":
                kind = Q.Q4_K if many else Q.Q3_K
            case "IQ3_XXS":
                kind = Q.Q4_K if many else Q.IQ3_XXS if self.matrix else Q.IQ3_S
            case "Q2_K_S" | "IQ3_XS" | "IQ3_S" if many:
                kind = Q.Q4_K
            case "IQ3_M":
                kind = Q.Q4_K
            case "Q3_K_M":
                kind = Q.Q5_K if i < 2 else Q.Q4_K
            case "Q3_K_L":
                kind = Q.Q5_K
            case "IQ4_NL" | "IQ4_XS" if many:
                kind = Q.Q5_K
            case "Q4_K_M" | "Q5_K_M" if _more_bits(i, self.values):
                kind = Q.Q6_K
            case "Q4_K_S" if i < 4:
                kind = Q.Q5_K
        if self.model.experts == 8:
            return Q.Q8_0
        return Q.Q5_K if self.model.is_70b and kind in {Q.Q3_K, Q.Q4_K} else kind

    def _other(self, part: str, i: int) -> Q:
        layers, eight = self.model.layers, self.model.experts == 8
        if part == "attn_k" and eight:
            return Q.Q8_0
        if part in {"attn_k", "attn_q"}:
            return {"IQ3_XS": Q.IQ3_XXS, "IQ3_XXS": Q.IQ2_S}.get(self.preset, self.default)
        if part == "ffn_down":
            return self._ffn_down(i, layers)
        if part in {"ffn_gate", "ffn_up"} and self.preset == "IQ3_XS":
            return Q.IQ3_XXS if layers // 8 <= i < 7 * layers // 8 else self.default
        if part != "attn_output":
            return self.default
        if self.model.arch == "falcon":
            return Q.Q4_K if self.preset == "Q3_K_L" else self.default
        if eight:
            return Q.Q5_K if self.preset in _EIGHT_EXPERTS_OUTPUT else self.default
        return _OUTPUT_PROJECTION.get(self.preset, self.default)

    def _ffn_down(self, i: int, n: int) -> Q:
        early, more = i < n // 8, _more_bits(i, n)
        if self.model.arch == "falcon" and self.preset in {"Q3_K_M", "Q3_K_L", "Q4_K_M", "Q4_K_S"}:
            return self._falcon_down(i < n // 16, more)
        match self.preset:
            case "Q2_K":
                return Q.Q3_K
            case "Q2_K_S" if early:
                return Q.Q4_K
            case "IQ3_XXS" if not self.matrix:
                return Q.Q4_K if early else Q.Q3_K
            case "Q3_K_M":
                return Q.Q5_K if i < n // 16 else Q.Q4_K
            case "IQ3_M" if early or (self.model.experts == 8 and more):
                return Q.Q4_K
            case "Q3_K_L":
                return Q.Q5_K
            case "Q4_K_M" | "Q5_K_M" if more:
                return Q.Q6_K
            case "IQ4_NL" | "IQ4_XS" if early and not self.matrix:
                return Q.Q5_K
            case "Q4_K_S" if early:
                return Q.Q5_K
            case "Q4_0" | "Q5_0" if early and self.matrix:
                return Q.Q4_1 if self.preset == "Q4_0" else Q.Q5_1
        return self.default

    def _falcon_down(self, first: bool, more: bool) -> Q:
        match self.preset:
            case "Q3_K_M":
                return Q.Q5_K if first else Q.Q4_K if more else Q.Q3_K
            case "Q4_K_M":
                return Q.Q6_K if first else Q.Q5_K if more else Q.Q4_K
        return Q.Q4_K


def _part(name: str) -> str:
    """A tensor's part in the model: the first of llama.cpp's names that is in its own."""
    return next((part.removesuffix(".weight") for part in _PARTS if part in name), "")


def _more_bits(i: int, n: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2
