"""llama.cpp's quantization presets: which type each tensor gets.

The mixture and its fall-backs are those of llama_model_quantize (llama.cpp, src/llama-quant.cpp) for models
without an importance matrix; a test compares the bytes for every preset.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as Q

from edgekit.errors import InputError


@dataclass(frozen=True)
class Preset:
    """A preset's usual name, its file type in GGUF, and the type that most tensors get."""

    name: str
    file_type: LlamaFileType
    default: Q


_F = LlamaFileType
PRESETS = {
    preset.name: preset
    for preset in (
        Preset("F32", _F.ALL_F32, Q.F32),
        Preset("F16", _F.MOSTLY_F16, Q.F16),
        Preset("BF16", _F.MOSTLY_BF16, Q.BF16),
        Preset("Q8_0", _F.MOSTLY_Q8_0, Q.Q8_0),
        Preset("Q6_K", _F.MOSTLY_Q6_K, Q.Q6_K),
        Preset("Q5_K_M", _F.MOSTLY_Q5_K_M, Q.Q5_K),
        Preset("Q5_K_S", _F.MOSTLY_Q5_K_S, Q.Q5_K),
        Preset("Q5_1", _F.MOSTLY_Q5_1, Q.Q5_1),
        Preset("Q5_0", _F.MOSTLY_Q5_0, Q.Q5_0),
        Preset("Q4_K_M", _F.MOSTLY_Q4_K_M, Q.Q4_K),
        Preset("Q4_K_S", _F.MOSTLY_Q4_K_S, Q.Q4_K),
        Preset("IQ4_NL", _F.MOSTLY_IQ4_NL, Q.IQ4_NL),
        Preset("IQ4_XS", _F.MOSTLY_IQ4_XS, Q.IQ4_XS),
        Preset("Q4_1", _F.MOSTLY_Q4_1, Q.Q4_1),
        Preset("Q4_0", _F.MOSTLY_Q4_0, Q.Q4_0),
        Preset("Q3_K_L", _F.MOSTLY_Q3_K_L, Q.Q3_K),
        Preset("Q3_K_M", _F.MOSTLY_Q3_K_M, Q.Q3_K),
        Preset("Q3_K_S", _F.MOSTLY_Q3_K_S, Q.Q3_K),
        Preset("Q2_K", _F.MOSTLY_Q2_K, Q.Q2_K),
    )
}
_ALIASES = {"Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M"}

FALLBACKS = {
    Q.IQ4_XS: Q.IQ4_NL,
    Q.Q2_K: Q.Q4_0,
    Q.Q3_K: Q.Q4_0,
    Q.Q4_K: Q.Q5_0,
    Q.Q5_K: Q.Q5_1,
    Q.Q6_K: Q.Q8_0,
}
"""For rows that don't divide by the 256 of these types' blocks: a type with blocks of 32."""

EIGHT_EXPERTS_Q5_K = {"Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "IQ4_XS", "Q4_K_S", "Q4_K_M"}
"""Presets that give attn_output more bits where there are eight experts."""

KEPT = (
    "_norm.weight",
    "position_embd.weight",
    "ffn_gate_inp.weight",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "per_layer_model_proj",
)
"""Parts of the names of matrices that are never quantized."""

OVERRIDE_TYPES = {preset.default.name: preset.default for preset in PRESETS.values()}


def preset(name: str) -> Preset:
    """The preset of that name, in any case; ``InputError`` with the nearest names otherwise."""
    wanted = name.upper()
    found = PRESETS.get(_ALIASES.get(wanted, wanted))
    if found is None:
        near = difflib.get_close_matches(wanted, PRESETS, n=3, cutoff=0.4)
        raise InputError(
            f"no quantization is called {name!r}",
            expected=", ".join(PRESETS),
            next_step=f"did you mean {' or '.join(near)}?" if near else None,
        )
    return found


@dataclass(frozen=True)
class Override:
    """``regex=type``: tensors whose GGUF name the regex finds get that type."""

    pattern: re.Pattern[str]
    kind: Q

    @classmethod
    def parse(cls, text: str) -> Override:
        """From ``'ffn_down=q8_0'``; ``InputError`` for a bad regex or an unknown type."""
        pattern, _, kind = text.rpartition("=")
        if not pattern or kind.upper() not in OVERRIDE_TYPES:
            raise InputError(
                f"can't read the tensor type {text!r}",
                found=kind or text,
                expected=f"REGEX=TYPE with a type of {', '.join(OVERRIDE_TYPES)}",
                next_step="for example --tensor-type 'blk.0.ffn_down=q8_0'",
            )
        try:
            return cls(re.compile(pattern), OVERRIDE_TYPES[kind.upper()])
        except re.error as error:
            raise InputError(f"can't read the regex of {text!r}", found=str(error)) from error


@dataclass(frozen=True)
class Model:
    """What the mixture looks at besides names and shapes."""

    layers: int
    heads: int
    kv_heads: int
    """Of the first layer; 0 where that one has no attention."""
    experts: int = 0

    @property
    def many_queries(self) -> bool:
        """Whether at least four query heads share a key-value head, so that attn_v is small."""
        return self.kv_heads > 0 and self.heads // self.kv_heads >= 4

    @property
    def is_70b(self) -> bool:
        """Llama 2 and 3 70B, as llama.cpp knows them."""
        return self.layers == 80 and self.heads != self.kv_heads


def order(names: Iterable[str]) -> list[str]:
    """llama.cpp's order of tensors: those of no layer first, then by layer, then by name."""

    def key(name: str) -> tuple[int, str]:
        match = re.match(r"blk\.(\d+)\.", name)
        return (int(match[1]) if match else -1, name)

    return sorted(names, key=key)


def row_bytes(kind: Q, columns: int) -> int:
    """Bytes that one row takes in a type."""
    elements, nbytes = GGML_QUANT_SIZES[kind]
    return int(columns // elements * nbytes)


def assign(
    shapes: dict[str, tuple[int, ...]], chosen: Preset, model: Model, overrides: Sequence[Override] = ()
) -> dict[str, Q]:
    """The type of every tensor, by GGUF name and numpy shape; ``InputError`` for an override that fits none."""
    for override in overrides:
        if not any(override.pattern.search(name) and _is_quantized(name, shapes[name]) for name in shapes):
            raise InputError(
                f"the tensor type for {override.pattern.pattern!r} fits no tensor",
                expected="a regex that finds a GGUF tensor name, such as blk.0.ffn_down.weight",
            )
    tied = "output.weight" not in shapes
    seen = {"attn_v": 0, "ffn_down": 0, "all attn_v": sum(_holds_values(name) for name in shapes)}
    kinds = {}
    for name in order(shapes):
        if not _is_quantized(name, shapes[name]):
            kinds[name] = Q.F32
            continue
        kind = next((o.kind for o in overrides if o.pattern.search(name)), None)
        # An overridden tensor doesn't count among its kind: so it is in llama.cpp.
        kind = kind if kind is not None else _mixture(name, shapes[name][-1], chosen, model, tied, seen)
        kinds[name] = _fit(kind, shapes[name][-1])
    return kinds


def _is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    """Matrices are; norms, vectors (one row counts as one) and small sensitive ones stay in F32."""
    if len(shape) < 2 or prod(shape[:-1]) == 1 or not name.endswith("weight"):
        return False
    return not any(part in name for part in KEPT)


def _fit(kind: Q, columns: int) -> Q:
    """The type itself, or one that rows of this length divide by; F16 where none does."""
    if columns % GGML_QUANT_SIZES[kind][0]:
        kind = FALLBACKS.get(kind, kind)
    return Q.F16 if columns % GGML_QUANT_SIZES[kind][0] else kind


def _mixture(name: str, columns: int, chosen: Preset, model: Model, tied: bool, seen: dict[str, int]) -> Q:
    kind = chosen.default
    if kind in {Q.F32, Q.F16, Q.BF16}:
        return kind
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        if columns % GGML_QUANT_SIZES[kind][0]:
            return Q.Q8_0
        return kind if kind is Q.Q8_0 else Q.Q6_K
    if _holds_values(name):
        seen["attn_v"] += 1
        return _attn_v(chosen, model, seen["attn_v"] - 1, seen["all attn_v"])
    if "ffn_down" in name:
        seen["ffn_down"] += 1
        layer = int(name.split(".")[1]) if model.experts > 1 else seen["ffn_down"] - 1
        return _ffn_down(chosen, layer, model.layers)
    if "attn_k.weight" in name and model.experts == 8:
        return Q.Q8_0
    if "attn_output.weight" in name and model.experts == 8:
        return Q.Q5_K if chosen.name in EIGHT_EXPERTS_Q5_K else kind
    if "attn_output.weight" in name:
        return {"Q2_K": Q.Q3_K, "Q3_K_M": Q.Q4_K, "Q3_K_L": Q.Q5_K}.get(chosen.name, kind)
    return kind


def _holds_values(name: str) -> bool:
    return "attn_v.weight" in name or "attn_qkv.weight" in name


def _more_bits(i: int, n: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _attn_v(chosen: Preset, model: Model, i: int, n: int) -> Q:
    kind = chosen.default
    if model.experts == 8:
        return Q.Q8_0
    match chosen.name:
        case "Q2_K":
            kind = Q.Q4_K if model.many_queries else Q.Q3_K
        case "Q3_K_M":
            kind = Q.Q5_K if i < 2 else Q.Q4_K
        case "Q3_K_L":
            kind = Q.Q5_K
        case "IQ4_NL" | "IQ4_XS" if model.many_queries:
            kind = Q.Q5_K
        case "Q4_K_M" | "Q5_K_M" if _more_bits(i, n):
            kind = Q.Q6_K
        case "Q4_K_S" if i < 4:
            kind = Q.Q5_K
    return Q.Q5_K if model.is_70b and kind in {Q.Q3_K, Q.Q4_K} else kind


def _ffn_down(chosen: Preset, i: int, n: int) -> Q:
    match chosen.name:
        case "Q2_K":
            return Q.Q3_K
        case "Q3_K_M":
            return Q.Q5_K if i < n // 16 else Q.Q4_K
        case "Q3_K_L":
            return Q.Q5_K
        case "Q4_K_M" | "Q5_K_M" if _more_bits(i, n):
            return Q.Q6_K
        case "Q4_K_S" | "IQ4_NL" | "IQ4_XS" if i < n // 8:
            return Q.Q5_K
    return chosen.default
