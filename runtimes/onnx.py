"""ONNX Runtime behind the engine seam: the graph of onnxruntime-genai's builder, without torch and transformers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import UnsupportedModelError
from edgekit.genai_config import read_config
from edgekit.runtimes._onnxgraph import OnnxGraph
from edgekit.runtimes.cores import default_threads
from edgekit.runtimes.rows import RowsEngine, RowsOptions
from edgekit.runtimes.words import Words


class OnnxEngine(RowsEngine):
    """One ONNX model in onnxruntime."""

    def __init__(
        self, path: str | os.PathLike[str], options: RowsOptions | None = None, *, vocab_only: bool = False
    ) -> None:
        """Load a folder as onnxruntime-genai has it, or its graph; ``vocab_only`` can only tokenize.

        Raises ``BundleError`` (unsound files), ``UnsupportedModelError`` (a graph or tokenizer of another kind),
        ``HardwareError`` (no memory) and ``RuntimeUnavailableError`` (onnxruntime is missing).
        """
        place = Path(path)
        folder = place if place.is_dir() else place.parent
        options = options or RowsOptions()
        config = read_config(folder)
        bos = config.model.bos_token_id
        words = Words(folder, config.eos_ids, bos if isinstance(bos, int) else None)
        super().__init__(folder, words, config.model.vocab_size)
        if not vocab_only:
            _check_provider(folder, config.model.decoder.providers)
            # Beyond its own context the graph has no rotations.
            n_ctx = options.context(config.model.context_length, folder)
            threads = options.threads or default_threads()
            graph = OnnxGraph(folder, config, threads, options.n_seq_max, n_ctx)
            self._compute(graph, n_ctx, options.n_seq_max)


def _check_provider(folder: Path, made_for: Sequence[str]) -> None:
    """Keys and values lie in main memory here: graphs for GPUs and NPUs are onnxruntime-genai's to run."""
    if others := [name for name in made_for if name.lower() != "cpu"]:
        raise UnsupportedModelError(
            "the graph was made for an execution provider that edgekit doesn't run", path=folder,
            found=", ".join(others), expected="a graph for CPUs",
            next_step="edgekit build --onnx provider=cpu, or edgekit export --to onnxruntime-genai, which runs it",
        )  # fmt: skip
