"""Which type each tensor has, drawn: a row for each layer, a column for each kind of weight, coloured by bits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.table import Table

_LAYER: Final = re.compile(r"blk\.(\d+)\.(.+?)(?:\.weight)?$")
_WIDTH: Final = 120
_COLOURS: Final = (
    (2.9, "white on #8c2d04"), (3.9, "black on #ec7014"), (4.4, "black on #fec44f"), (4.9, "black on #fff7bc"),
    (5.9, "black on #c7e9b4"), (7.0, "black on #41b6c4"), (10.0, "white on #225ea8"), (99.0, "white on #081d58"),
)  # fmt: skip
"""Few bits are hot, many are cold."""


def show(types: Mapping[str, str]) -> None:
    """Print the picture, and the tensors that are in no layer below it."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    found = {name: match for name in types if (match := _LAYER.fullmatch(name))}
    if found:
        console.print(_grid({(int(m[1]), m[2]): types[name] for name, m in found.items()}))
    for name in types:
        if name not in found:
            console.print(Text.assemble(f"{name.removesuffix('.weight')}  ", _cell(types[name])))


def _grid(cells: Mapping[tuple[int, str], str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    parts = sorted({part for _, part in cells}, key=_place)
    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    drawn.add_column("layer", justify="right")
    for part in parts:
        drawn.add_column(part, justify="center", overflow="fold")
    for layer in sorted({layer for layer, _ in cells}):
        row = [_cell(cells[layer, part]) if (layer, part) in cells else Text("") for part in parts]
        drawn.add_row(Text(str(layer)), *row)
    return drawn


def _cell(kind: str) -> Any:
    from rich.text import Text

    bits = bits_of(kind)
    return Text(f" {kind:<6} ", next(colour for most, colour in _COLOURS if bits <= most))


def bits_of(kind: str) -> float:
    """Bits per weight of a type; 16 for one that isn't known."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if kind not in GGMLQuantizationType.__members__:
        return 16.0
    elements, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return float(8 * nbytes / elements)


def _place(part: str) -> tuple[int, str]:
    """In the order in which a layer computes."""
    known = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    return (known.index(part) if part in known else len(known), part)
