"""Traces of a bundle's answers, in the order of their texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.bundle import Bundle
from edgekit.calibrate import Extract


@contextmanager
def tracing(bundle: Bundle, threads: int = 0) -> Iterator[Extract]:
    """A bundle with a prompt and a schema, loaded, its artifact's digest checked: greedy answers with their traces."""
    from edgekit.extraction import Extractor
    from edgekit.model import load

    with load(bundle.folder, threads=threads, verify=True) as model:
        yield Extractor(model, None, None, None, {}).traces
