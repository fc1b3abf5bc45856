"""Decoders with layers of several kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekit.converters.gguf.decoder import Line, stacked, top
from edgekit.converters.gguf.family import Mapped, unsupported, whole
from edgekit.tensors import TensorSource


def kinds(config: Mapping[str, Any], *known: str) -> list[str]:
    """The kind of every layer; a config without each of the known ones, or with others, is refused."""
    count, found = whole(config, "num_hidden_layers"), config.get("layer_types")
    if not isinstance(found, list) or len(found) != count or {*map(str, found)} != {*known}:
        raise unsupported("layers of another kind", found, f"{' and '.join(known)}, {count} in all")
    return found


def tensors(
    source: TensorSource,
    config: Mapping[str, Any],
    norm: Line,
    layers: Sequence[str],
    lines: Mapping[str, Sequence[Line]],
    more: Callable[[str, str], list[Mapped]],
) -> list[Mapped]:
    """Embedding, last norm, head, and every layer's lines by its kind; ``more`` adds to the first kind's layers.

    It is called with the prefixes of a layer's tensors in the checkpoint and in GGUF.
    """
    out = stacked(source, top(source, config, norm), [lines[kind] for kind in layers])
    for layer, kind in enumerate(layers):
        if kind == next(iter(lines)):
            out += more(f"model.layers.{layer}.", f"blk.{layer}.")
    return out
