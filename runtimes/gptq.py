"""GPTQ and AWQ behind the engine seam, by transformers with gptqmodel's kernels: fast on CUDA, slow on a CPU."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit.packed_folder import read_packed
from edgekit.runtimes._torchgraph import TorchGraph
from edgekit.runtimes.cores import default_threads
from edgekit.runtimes.rows import RowsEngine, RowsOptions
from edgekit.runtimes.words import Words


class GptqEngine(RowsEngine):
    """One GPTQ or AWQ model, on the CUDA card that torch has, or on the CPU."""

    def __init__(
        self, path: str | os.PathLike[str], options: RowsOptions | None = None, *, vocab_only: bool = False
    ) -> None:
        """Load a folder as gptqmodel writes it, or a weights file in it; ``vocab_only`` can only tokenize, without torch.

        Raises ``BundleError`` (unsound files), ``UnsupportedModelError`` (a tokenizer of another kind),
        ``HardwareError`` (no memory) and ``RuntimeUnavailableError`` (packages that are missing).
        """
        options = options or RowsOptions()
        packed = read_packed(Path(path))
        words = Words(packed.folder, packed.eos_ids, packed.bos_id)
        super().__init__(packed.folder, words, packed.config["vocab_size"])
        if not vocab_only:
            n_ctx = options.context(packed.context, packed.folder)
            threads = options.threads or default_threads()
            self._compute(TorchGraph(packed, threads, options.n_seq_max, n_ctx), n_ctx, options.n_seq_max)
