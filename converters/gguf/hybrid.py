"""Decoders with layers of several kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekit.converters.gguf.decoder import Line, table
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
    hidden, vocab = whole(config, "hidden_size"), whole(config, "vocab_size")
    top = [Line("model.embed_tokens", "token_embd", (vocab, hidden), bias=False), norm]
    if config.get("tie_word_embeddings") is not True or "lm_head.weight" in source.names():
        top.append(Line("lm_head", "output", (vocab, hidden), bias=False))
    out = table(source, top, "", "")
    for layer, kind in enumerate(layers):
        prefix, gguf_prefix = f"model.layers.{layer}.", f"blk.{layer}."
        out += table(source, lines[kind], prefix, gguf_prefix)
        if kind == next(iter(lines)):
            out += more(prefix, gguf_prefix)
    return out
