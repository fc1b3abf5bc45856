"""Which type each weight has, by layer and kind, few bits to many: what a terminal and a page draw."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_LAYER: Final = re.compile(r"blk\.(\d+)\.(.+?)(?:\.weight)?$")
_ORDER: Final = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_STEPS: Final = (2.9, 3.9, 4.4, 4.9, 5.9, 7.0, 10.0)
"""Bits per weight, at most, of each level but the last."""


@dataclass(frozen=True)
class Cell:
    """A type, and its level of eight: 0 has the fewest bits."""

    kind: str
    level: int


@dataclass(frozen=True)
class Heat:
    """Columns, a row of cells for each layer, and the weights that are in no layer."""

    parts: list[str]
    layers: list[tuple[int, list[Cell | None]]]
    others: list[tuple[str, Cell]]


def heat(types: Mapping[str, str]) -> Heat:
    """The table of these weights; vectors and F32 matrices, which nobody chose, are left out."""
    chosen = {name: kind for name, kind in types.items() if kind != "F32"}
    cells: dict[tuple[int, str], Cell] = {}
    others = []
    for name, kind in chosen.items():
        if match := _LAYER.fullmatch(name):
            cells[int(match[1]), match[2]] = _cell(kind)
        else:
            others.append((name.removesuffix(".weight"), _cell(kind)))
    parts = sorted({part for _, part in cells}, key=lambda part: (_place(part), part))
    layers = sorted({layer for layer, _ in cells})
    return Heat(parts, [(layer, [cells.get((layer, part)) for part in parts]) for layer in layers], others)


def _place(part: str) -> int:
    return _ORDER.index(part) if part in _ORDER else len(_ORDER)


def _cell(kind: str) -> Cell:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    found = GGMLQuantizationType.__members__.get(kind)
    bits = 16.0 if found is None else 8 * GGML_QUANT_SIZES[found][1] / GGML_QUANT_SIZES[found][0]
    return Cell(kind, sum(bits > most for most in _STEPS))
