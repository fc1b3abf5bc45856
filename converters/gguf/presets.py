"""llama.cpp's quantization presets by name, and the type that each tensor gets under one.

Types and fall-backs are those of llama_model_quantize (llama.cpp, src/llama-quant.cpp), with and without an
importance matrix; a test compares types and bytes for every preset.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as Q

from edgekit.budget import AUTO
from edgekit.converters.gguf.mixture import Mixture, Model, Preset, is_quantized
from edgekit.errors import InputError

__all__ = ["PRESETS", "Model", "Override", "Preset", "assign", "order", "preset", "row_bytes"]


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
        Preset("IQ3_M", _F.MOSTLY_IQ3_M, Q.IQ3_S),
        Preset("IQ3_S", _F.MOSTLY_IQ3_S, Q.IQ3_S),
        Preset("IQ3_XS", _F.MOSTLY_IQ3_XS, Q.IQ3_S),
        Preset("IQ3_XXS", _F.MOSTLY_IQ3_XXS, Q.IQ3_XXS),
        Preset("Q2_K", _F.MOSTLY_Q2_K, Q.Q2_K),
        Preset("Q2_K_S", _F.MOSTLY_Q2_K_S, Q.Q2_K),
        Preset("IQ2_M", _F.MOSTLY_IQ2_M, Q.IQ2_S),
        Preset("IQ2_S", _F.MOSTLY_IQ2_S, Q.IQ2_XS),
        Preset("IQ2_XS", _F.MOSTLY_IQ2_XS, Q.IQ2_XS),
        Preset("IQ2_XXS", _F.MOSTLY_IQ2_XXS, Q.IQ2_XXS),
        Preset("IQ1_M", _F.MOSTLY_IQ1_M, Q.IQ1_M),
        Preset("IQ1_S", _F.MOSTLY_IQ1_S, Q.IQ1_S),
        Preset("TQ2_0", _F.MOSTLY_TQ2_0, Q.TQ2_0),
        Preset("TQ1_0", _F.MOSTLY_TQ1_0, Q.TQ1_0),
        Preset("Q1_0", _F.MOSTLY_Q1_0, Q.Q1_0),
        Preset("MXFP4_MOE", _F.MOSTLY_MXFP4_MOE, Q.MXFP4),
    )
}
_ALIASES = {"Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M", "MXFP4": "MXFP4_MOE"}

_LADDER = {"Q2_K": 2.6, "Q3_K_M": 3.5, "Q4_K_M": 4.6, "Q5_K_M": 5.5, "Q6_K": 6.6, "Q8_0": 8.5, "F16": 16.0}

FALLBACKS = {
    **dict.fromkeys((Q.IQ1_S, Q.IQ1_M, Q.IQ2_XXS, Q.IQ2_XS, Q.IQ2_S, Q.IQ3_XXS, Q.IQ3_S, Q.IQ4_XS), Q.IQ4_NL),
    **dict.fromkeys((Q.Q2_K, Q.Q3_K, Q.TQ1_0, Q.TQ2_0), Q.Q4_0),
    Q.Q4_K: Q.Q5_0,
    Q.Q5_K: Q.Q5_1,
    Q.Q6_K: Q.Q8_0,
}
"""For rows that don't divide by the 256 of these types' blocks: a type with blocks of 32."""

OVERRIDE_TYPES = {preset.default.name: preset.default for preset in PRESETS.values()}


def preset(name: str) -> Preset:
    """The preset of that name, in any case; ``InputError`` with the nearest names otherwise."""
    wanted = name.upper()
    if wanted == AUTO:
        return of_bits(4.5)
    found = PRESETS.get(_ALIASES.get(wanted, wanted))
    if found is None:
        near = difflib.get_close_matches(wanted, PRESETS, n=3, cutoff=0.4)
        raise InputError(
            f"no quantization is called {name!r}",
            expected=", ".join(PRESETS),
            next_step=f"did you mean {' or '.join(near)}?" if near else None,
        )
    return found


def of_bits(bits: float) -> Preset:
    """What a file of so many bits per weight calls itself whose types are chosen one by one: the nearest preset's type."""
    nearest = min(_LADDER, key=lambda name: abs(_LADDER[name] - bits))
    return replace(PRESETS[nearest], name=AUTO)


def nearest(chosen: Preset) -> str:
    """The name of the preset with the same file type."""
    return next(one.name for one in PRESETS.values() if one.file_type == chosen.file_type)


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
    shapes: Mapping[str, tuple[int, ...]],
    chosen: Preset,
    model: Model,
    overrides: Sequence[Override] = (),
    *,
    matrix: bool = False,
    stored: Mapping[str, Q] | None = None,
) -> dict[str, Q]:
    """The type of every tensor, by GGUF name and numpy shape; some depend on whether there is a ``matrix``.

    Tensors that aren't quantized stay in the types that are ``stored``, F32 where none is. Raises ``InputError`` for an override that fits no tensor, and for rows that no type fits.
    """
    for override in overrides:
        if not any(override.pattern.search(name) and is_quantized(name, shapes[name]) for name in shapes):
            raise InputError(
                f"the tensor type for {override.pattern.pattern!r} fits no tensor",
                expected="a regex that finds a GGUF tensor name, such as blk.0.ffn_down.weight",
            )
    mixture = Mixture(chosen, model, shapes, matrix)
    kinds = {}
    for name in order(shapes):
        if not is_quantized(name, shapes[name]):
            kinds[name] = (stored or {}).get(name, Q.F32)
            continue
        kind = next((o.kind for o in overrides if o.pattern.search(name)), None)
        # An overridden tensor doesn't count among its kind: so it is in llama.cpp.
        kind = kind if kind is not None else mixture.pick(name, shapes[name])
        kinds[name] = _fit(name, kind, shapes[name][-1])
    return kinds


def _fit(name: str, kind: Q, columns: int) -> Q:
    """The type itself, or one that rows of this length divide by; F16 where none of smaller blocks does."""
    block = GGML_QUANT_SIZES[kind][0]
    if columns % block == 0:
        return kind
    if kind not in FALLBACKS and block > 32:
        raise InputError(
            f"rows of tensor {name!r} don't divide by the blocks of {kind.name}",
            found=f"rows of {columns}",
            expected=f"a multiple of {block}",
            next_step=f"choose another type for it: --tensor-type '{name}=q4_0'",
        )
    kind = FALLBACKS.get(kind, kind)
    return Q.F16 if columns % GGML_QUANT_SIZES[kind][0] else kind
