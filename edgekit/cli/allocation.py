"""Which type each tensor has, drawn: a row for each layer, a column for each kind of weight, coloured by bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from edgekit.heat import Cell, Heat, heat

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_WIDTH: Final = 120
_COLOURS: Final = (
    "white on #8c2d04", "black on #ec7014", "black on #fec44f", "black on #fff7bc",
    "black on #c7e9b4", "black on #41b6c4", "white on #225ea8", "white on #081d58",
)  # fmt: skip
"""By level: few bits are hot, many are cold."""


def show(types: Mapping[str, str]) -> None:
    """Print the picture, and the tensors that are in no layer below it."""
    from rich.console import Console
    from rich.text import Text

    console, found = Console(highlight=False), heat(types)
    if not console.is_terminal:
        console.width = _WIDTH
    if found.layers:
        console.print(_grid(found))
    for name, cell in found.others:
        console.print(Text.assemble(f"{name}  ", _drawn(cell)))


def _grid(found: Heat) -> Table:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    drawn.add_column("layer", justify="right")
    for part in found.parts:
        drawn.add_column(part, justify="center", overflow="fold")
    for layer, cells in found.layers:
        drawn.add_row(str(layer), *(_drawn(cell) if cell else Text("") for cell in cells))
    return drawn


def _drawn(cell: Cell) -> Text:
    from rich.text import Text

    return Text(f" {cell.kind:<6} ", _COLOURS[cell.level])
