"""recipe.toml: the type of every tensor, by patterns that llama-quantize takes as well, and how they are rounded."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from edgekit.errors import InputError
from edgekit.files import MALFORMED, read_bounded

FILE: Final = "recipe.toml"
FORMAT: Final = 1
_LAYER: Final = re.compile(r"blk\.(\d+)\.(.+)")


class Recipe(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A preset for the file's type and for what no pattern finds; rounding ``nearest``, or ``feedback`` of a strength."""

    format: int
    preset: str
    types: dict[str, str]
    rounding: str = "nearest"
    strength: float = 1.0


def read(path: Path) -> Recipe:
    """Decode a recipe strictly; ``InputError`` names the key that is wrong."""
    try:
        found = msgspec.toml.decode(read_bounded(path, limit=4 << 20), type=Recipe)
    except MALFORMED as error:
        raise InputError(
            "can't read the recipe",
            path=path,
            found=str(error),
            expected="recipe.toml of a bundle made with -q auto",
        ) from error
    if found.format != FORMAT:
        raise InputError("a recipe of another format", path=path, found=found.format, expected=str(FORMAT))
    if found.rounding not in ("nearest", "feedback"):
        raise InputError("no such rounding", path=path, found=found.rounding, expected="nearest, or feedback")
    if not 0 < found.strength <= 1:
        raise InputError("the strength is out of range", path=path, found=found.strength, expected="0 to 1")
    return found


def patterns(types: Mapping[str, str]) -> dict[str, str]:
    """Tensors' types as few regular expressions as there are kinds of tensors and types."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, kind in types.items():
        layer = _LAYER.fullmatch(name)
        groups[(layer[2], kind) if layer else (name, kind)].append(layer[1] if layer else "")
    found = {}
    for (part, kind), layers in sorted(groups.items()):
        prefix = f"blk\\.({'|'.join(sorted(layers, key=int))})\\." if layers[0] else ""
        found[f"^{prefix}{re.escape(part)}$"] = kind.lower()
    return found


def text(recipe: Recipe, asked: str) -> str:
    """The file; the same for the same recipe."""
    options = " \\\n#     ".join(
        f"--tensor-type '{pattern}={kind}'" for pattern, kind in recipe.types.items()
    )
    lines = [
        f"# The type of every tensor under {asked}. edgekit build BASE -q auto --recipe recipe.toml takes it again;",
        "# llama.cpp takes the same types, rounding each weight by itself:",
        f"#   llama-quantize --imatrix imatrix.gguf {options} \\",
        f"#     model-f16.gguf model.gguf {recipe.preset}",
        f"format = {recipe.format}",
        f'preset = "{recipe.preset}"',
        f'rounding = "{recipe.rounding}"    # feedback needs --calibration, for it spreads errors as the data say',
        f"strength = {recipe.strength!r}",
        "",
        "[types]",
        *(f"'{pattern}' = \"{kind}\"" for pattern, kind in recipe.types.items()),
    ]
    return "\n".join(lines) + "\n"
