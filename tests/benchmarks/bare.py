"""A bare loop over llama.cpp's C API: what decoding costs with next to no Python around it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.runtimes import _amx, _llamalib
from edgekit.runtimes._llamathreads import ThreadPool

CONTEXT = 1024
BATCH = 512


class Bare:
    """One model and one context, opened as edgekit's engine opens them."""

    def __init__(self, path: Path, threads: int, *, context: int = CONTEXT, sequences: int = 1) -> None:
        """The same parameters as ``LlamaCppEngine``: only the Python around the calls may differ."""
        self.lib = lib = _llamalib.load()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = -1 if lib.llama_supports_gpu_offload() else 0
        params.use_extra_bufts = not _llamalib.has_amx() or _amx.works()
        self.model = lib.llama_model_load_from_file(os.fsencode(path), params)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = context, sequences, True
        params.n_batch = params.n_ubatch = BATCH
        params.n_outputs_max = 64
        params.n_threads = params.n_threads_batch = threads
        self.context = lib.llama_init_from_model(self.model, params)
        # Where there is no OpenMP, llama.cpp would make new threads for every call.
        self.threads = ThreadPool(self.context, threads)
        self.vocabulary = lib.llama_model_get_vocab(self.model)
        self.size = lib.llama_vocab_n_tokens(self.vocabulary)
        self.tokens: Any = (ctypes.c_int32 * context)()
        self._view: np.ndarray[Any, np.dtype[np.float32]] | None = None
        self._address = 0

    def generate(self, text: str, count: int) -> int:
        """The greedy answer's first ``count`` tokens; returns how many tokens the prompt had."""
        lib, context, tokens = self.lib, self.context, self.tokens
        lib.llama_memory_seq_rm(lib.llama_get_memory(context), 0, -1, -1)
        data = text.encode()
        length: int = lib.llama_tokenize(self.vocabulary, data, len(data), tokens, len(tokens), True, False)
        if lib.llama_decode(context, lib.llama_batch_get_one(tokens, length)):
            raise RuntimeError("llama_decode failed")
        tokens[0] = self._best()
        one = lib.llama_batch_get_one(tokens, 1)
        for _ in range(count - 1):
            if lib.llama_decode(context, one):
                raise RuntimeError("llama_decode failed")
            tokens[0] = self._best()
        return length

    def close(self) -> None:
        """Free the model."""
        self.lib.llama_free(self.context)
        self.threads.close()
        self.lib.llama_model_free(self.model)

    def _best(self) -> int:
        """The likeliest token, by a view of the logits that is made anew only where they moved."""
        pointer = self.lib.llama_get_logits(self.context)
        address = ctypes.addressof(pointer.contents)
        if self._view is None or address != self._address:
            self._view = np.ctypeslib.as_array(pointer, shape=(self.size,))
            self._address = address
        return int(self._view.argmax())
