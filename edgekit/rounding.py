"""How a quantization is to be rounded, found out on calibration data before it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit.allocation import Allocation

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

    from edgekit.converters.gguf.feedback import Feedback
    from edgekit.converters.gguf.mixture import Preset


@dataclass(frozen=True)
class Rounding:
    """A preset, the types of single tensors, error feedback, and what a manifest says of all this."""

    preset: Preset
    types: Mapping[str, GGMLQuantizationType] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)
    """Types by regular expressions, as a recipe has them."""
    feedback: Feedback | None = None
    allocation: Allocation | None = None
    recipe: str | None = None
    """The text of recipe.toml."""
