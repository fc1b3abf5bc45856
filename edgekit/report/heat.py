"""Which type each weight has, by layer and kind: cells for a page's table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_LAYER: Final = re.compile(r"blk\.(\d+)\.(.+?)(?:\.weight)?$")
_ORDER: Final = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_SHADES: Final = ((2.9, "a"), (3.9, "b"), (4.4, "c"), (4.9, "d"), (5.9, "e"), (7.0, "f"), (10.0, "g"))


@dataclass(frozen=True)
class Cell:
    """A type, and the letter of its shade, few bits first."""

    kind: str
    shade: str


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
    return Cell(kind, next((shade for most, shade in _SHADES if bits <= most), "h"))
