"""What a pass reads, changes, quantizes and writes at once, and what the system is asked to read ahead of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from edgekit.converters.gguf.family import Mapped, Part
from edgekit.tensors import TensorSource

CHUNK_ELEMENTS = 256 * 1024
"""Weights in a chunk: 1 MB of float32, so that a chunk stays in a core's cache from reading to writing."""

WINDOW = 8
"""Chunks that the system is asked to read ahead at once: asking for each took as long as reading it."""


@dataclass(frozen=True)
class Chunk:
    """What is read, changed, quantized and written at once: rows from ``at`` on of the tensor at ``index``."""

    index: int
    parts: tuple[Part, ...]
    at: int = 0


def windows(todo: Sequence[Chunk]) -> list[Part | None]:
    """What to read ahead at each chunk: up to ``WINDOW`` chunks' rows of one tensor where they start, or nothing."""
    ahead: list[Part | None] = [None] * len(todo)
    first = 0
    for i, chunk in enumerate(todo):
        if not chunk.parts:
            continue
        part, begun = chunk.parts[0], ahead[first]
        if begun and begun.source == part.source and begun.stop == part.start and i - first < WINDOW:
            ahead[first] = replace(begun, stop=part.stop)
        else:
            first, ahead[i] = i, part
    return ahead


LARGE = 16 * CHUNK_ELEMENTS
"""Weights in a chunk that is rounded column by column: longer columns, and less work around each."""


def chunks(tensors: Sequence[Mapped], source: TensorSource, large: Collection[int] = ()) -> Iterator[Chunk]:
    """Cut every tensor into runs of rows, in units that belong together; what holds vectors stays whole.

    Those of the tensors at ``large`` are longer.
    """
    for index, tensor in enumerate(tensors):
        most = LARGE if index in large else CHUNK_ELEMENTS
        parts = tensor.parts or tuple(Part(name, 0, source.info(name).rows) for name in tensor.sources)
        shapes = [source.info(part.source).shape for part in parts]
        if any(len(shape) < 2 for shape in shapes) or not parts:
            yield Chunk(index, parts)
            continue
        at = 0
        for part in parts:
            columns = part.shape(source.info(part.source))[-1]
            step = max(1, most // (columns * tensor.unit)) * tensor.unit
            if part.columns:  # all by one thread, which turns them together
                step = part.stop - part.start
            for start in range(part.start, part.stop, step):
                stop = min(start + step, part.stop)
                yield Chunk(index, (replace(part, start=start, stop=stop),), at)
                at += stop - start


def pieces(chunk: Chunk, source: TensorSource) -> Iterator[Chunk]:
    """A chunk as it is, or a matrix's columns as many as are quantized at once."""
    if not any(part.columns for part in chunk.parts):
        yield chunk
        return
    (part,) = chunk.parts
    step = max(1, CHUNK_ELEMENTS // part.shape(source.info(part.source))[-1])
    for start in range(part.start, part.stop, step):
        cut = replace(part, start=start, stop=min(start + step, part.stop))
        yield replace(chunk, parts=(cut,), at=chunk.at + start - part.start)
