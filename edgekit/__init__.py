"""edgekit: from a fine-tuned small language model to a verified, right-sized bundle on every device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.errors import (
    AdapterError,
    BundleError,
    EdgekitError,
    GateError,
    HardwareError,
    InputError,
    RuntimeUnavailableError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from edgekit.model import Extraction, Model, load

__version__ = "0.1.0"

__all__ = [
    "AdapterError",
    "BundleError",
    "EdgekitError",
    "Extraction",
    "GateError",
    "HardwareError",
    "InputError",
    "Model",
    "RuntimeUnavailableError",
    "UnsupportedModelError",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    """Load the model's machinery on first use, so that ``import edgekit`` stays fast."""
    if name in {"Extraction", "Model", "load"}:
        from edgekit import model

        return getattr(model, name)
    raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
