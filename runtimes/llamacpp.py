"""llama.cpp behind the engine seam: its C API through ctypes, one reused batch, logits without a copy."""

from __future__ import annotations

import copy
import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import BundleError, EdgekitError, HardwareError, InputError, UnsupportedModelError
from edgekit.gguf_shards import read_shards
from edgekit.runtimes import _amx, _llamalib
from edgekit.runtimes._llamabatch import LlamaBatch
from edgekit.runtimes._llamaoptions import DEFAULT_CONTEXT, LlamaCppOptions, context_params
from edgekit.runtimes._llamathreads import ThreadPool
from edgekit.runtimes._llamavocab import LlamaVocabulary
from edgekit.runtimes.engine import Logits, Run
from edgekit.runtimes.flat import Plan, check_seq

__all__ = ["LlamaCppEngine", "LlamaCppOptions"]


class _Forks:
    """How many engines use the same weights."""

    def __init__(self) -> None:
        self.count = 1


class LlamaCppEngine:
    """One GGUF model in llama.cpp. Sequences share one KV cache, so copying a prefix moves no data."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        options: LlamaCppOptions | None = None,
        *,
        vocab_only: bool = False,
    ) -> None:
        """Load ``path``; ``vocab_only`` loads no weights and can only tokenize.

        Raises ``InputError`` (no such file), ``BundleError`` (llama.cpp refuses it), ``HardwareError`` (no
        memory for the context) and ``RuntimeUnavailableError`` (llama-cpp-python is missing).
        """
        self._model: int | None = None
        self._context: int | None = None
        self._forks = _Forks()
        self._lib = _llamalib.load()
        self._path = Path(path)
        options = options or LlamaCppOptions()
        try:
            self._open_model(options, vocab_only)
            self.n_ctx, self.n_seq_max, self.n_kv = 0, 0, 0
            if not vocab_only:
                self._open_context(options)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        options: LlamaCppOptions | None = None,
        *,
        vocab_only: bool = False,
    ) -> LlamaCppEngine:
        """The same as the constructor, under the name that every engine's door has."""
        return cls(path, options, vocab_only=vocab_only)

    def fork(self, options: LlamaCppOptions) -> LlamaCppEngine:
        """Another context over the same weights, with sequences and threads of its own; closed on its own, too."""
        self._alive()
        other = copy.copy(self)
        other._context = None
        self._forks.count += 1
        try:
            other._open_context(options)
        except BaseException:
            other.close()
            raise
        return other

    def _open_model(self, options: LlamaCppOptions, vocab_only: bool) -> None:
        lib = self._lib
        if not self._path.is_file():
            found = "a folder" if self._path.is_dir() else "nothing"
            raise InputError("there is no model here", path=self._path, found=found, expected="a .gguf file")
        read_shards(self._path)  # llama.cpp aborts, or worse, on some of what this refuses
        params = lib.llama_model_default_params()
        params.vocab_only = vocab_only
        offload = -1 if lib.llama_supports_gpu_offload() else 0
        params.n_gpu_layers = offload if options.n_gpu_layers is None else options.n_gpu_layers
        if options.writable:
            params.load_mode, params.use_extra_bufts, params.n_gpu_layers = lib.LLAMA_LOAD_MODE_NONE, False, 0
        elif options.repack is None:
            params.use_extra_bufts = not _llamalib.has_amx() or _amx.works()
        else:
            params.use_extra_bufts = options.repack
        self._rearranged = bool(params.use_extra_bufts)
        _llamalib.clear_log()
        self._model = model = lib.llama_model_load_from_file(os.fsencode(self._path), params)
        if not model:
            raise BundleError(
                "llama.cpp can't load this model",
                path=self._path,
                found=_llamalib.last_log() or "no reason given",
                next_step="build it again, or run `edgekit verify` on the bundle that it came in",
            )
        self.weights: int = lib.llama_model_size(model)
        """Bytes of all tensors."""
        self.on_gpu: bool = offload != 0 and params.n_gpu_layers != 0
        template = lib.llama_model_chat_template(model, None)
        self.chat_template: str | None = None if template is None else template.decode("utf-8", "replace")
        self._vocabulary = words = LlamaVocabulary(lib, model)
        self.n_vocab = words.size
        self.eos_ids: frozenset[int] = words.eos_ids
        self.specials: Mapping[str, int] = words.specials
        self.bos_token, self.eos_token, self.add_bos = words.bos_token, words.eos_token, words.add_bos

    def _open_context(self, options: LlamaCppOptions) -> None:
        lib = self._lib
        trained = lib.llama_model_n_ctx_train(self._model) or DEFAULT_CONTEXT
        self.n_ctx = options.n_ctx or min(trained, DEFAULT_CONTEXT)
        self.n_seq_max = options.n_seq_max
        params = context_params(lib, options, self.n_ctx)
        self._n_outputs: int = params.n_outputs_max
        _llamalib.clear_log()
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise HardwareError(
                f"no room for a context of {self.n_ctx} tokens in {self.n_seq_max} sequence(s)",
                path=self._path,
                found=_llamalib.last_log() or None,
                next_step="ask for a smaller n_ctx or fewer sequences",
            )
        self._threads = ThreadPool(self._context, max(params.n_threads, params.n_threads_batch))
        self.n_kv = lib.llama_n_ctx(self._context)
        self._memory = lib.llama_get_memory(self._context)
        # Some layers of such models remember one state of a sequence, not every token.
        self._stateful = bool(
            lib.llama_model_is_hybrid(self._model) or lib.llama_model_is_recurrent(self._model)
        )
        # llama.cpp's AMX code multiplies with the first sequence only where a state makes each a matrix of its own.
        self._apart = self._stateful and self._rearranged and _llamalib.has_amx()
        self._lengths = [0] * self.n_seq_max
        self._batch = LlamaBatch(lib, lib.llama_n_batch(self._context))
        self._llama_decode = lib.llama_decode
        self._logits_address = _llamalib.logits_address()
        self._rows: dict[tuple[int, int], Logits] = {}

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids of ``text``, without bos; control tokens are recognised in it only if ``special``."""
        self._alive()
        return self._vocabulary.tokenize(text, special)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; empty for control tokens."""
        self._alive()
        return self._vocabulary.token_bytes(token)

    def decode(self, runs: Sequence[Run]) -> Logits:
        """Append each run and return logits ``(wanted, n_vocab)``, one row for each wanted position, in order.

        The rows are valid until the next call. After an error every sequence is as it was before the call.
        """
        if self._context is None:
            self._alive(context=True)
        if len(runs) == 1:
            run = runs[0]
            seq = run.seq
            if len(run.tokens) == 1 and tuple(run.want) == (0,) and 0 <= seq < self.n_seq_max:
                token, position = run.tokens[0], self._lengths[seq]
                if position < self.n_ctx and 0 <= token < self.n_vocab:
                    return self._decode_one(token, position, seq)
        return self._decode_plan(Plan(runs, self._lengths, self.n_ctx, self.n_vocab))

    def _decode_one(self, token: int, position: int, seq: int) -> Logits:
        self._batch.fill_one(token, position, seq, True)
        status = self._llama_decode(self._context, self._batch.struct)
        if status:
            raise self._failed(status, (seq,))
        self._lengths[seq] = position + 1
        return self._rows_at(self._logits_address(self._context, 0), 1)

    def _decode_plan(self, plan: Plan) -> Logits:
        spans = plan.spans(self._batch.size, self._n_outputs, self._apart)
        parts: list[Logits] = []
        for start, stop in spans:
            wanted = plan.entries
            if len(spans) > 1:
                wanted = [entry for entry in wanted if start <= entry < stop]
            self._batch.fill(plan, start, stop, wanted)
            status = self._llama_decode(self._context, self._batch.struct)
            if status:
                raise self._failed(status, plan.lengths)
            rows = self._wanted_rows([entry - start for entry in wanted])
            parts.append(rows if len(spans) == 1 else rows.copy())
        for seq, length in plan.lengths.items():
            self._lengths[seq] = length
        found = (
            parts[0]
            if len(parts) == 1
            else np.concatenate(parts or [np.empty((0, self.n_vocab), np.float32)])
        )
        return found if plan.in_order else found[plan.order]

    def _wanted_rows(self, entries: list[int]) -> Logits:
        """Logits of these entries of the batch, which llama.cpp sorts: one view where they lie together, as always so far."""
        if not entries:
            return np.empty((0, self.n_vocab), np.float32)
        first = self._logits_address(self._context, entries[0])
        last = self._logits_address(self._context, entries[-1])
        if last == first + (len(entries) - 1) * self.n_vocab * 4:
            return self._rows_at(first, len(entries))
        addresses = [self._logits_address(self._context, entry) for entry in entries]
        return np.concatenate([self._rows_at(address, 1) for address in addresses])

    def _rows_at(self, address: int, count: int) -> Logits:
        """A view of llama.cpp's own buffer, which seldom moves."""
        view = self._rows.get((address, count))
        if view is None:
            if len(self._rows) >= 1024:
                self._rows.clear()
            floats = np.ctypeslib.as_array((ctypes.c_float * (self.n_vocab * count)).from_address(address))
            view = self._rows[address, count] = floats.reshape(count, self.n_vocab)
        return view

    def _failed(self, status: int, seqs: Any) -> EdgekitError:
        """Take back whatever part of a failed call reached the cache, and say what went wrong."""
        for seq in seqs:
            self._lib.llama_memory_seq_rm(self._memory, seq, self._lengths[seq], -1)
        if status == 1:
            return HardwareError(
                "the KV cache is full", next_step="drop sequences, or ask for a larger n_ctx"
            )
        found = _llamalib.last_log() or f"status {status}"
        return InputError("llama.cpp could not decode the tokens", path=self._path, found=found)

    def copy_prefix(self, src: int, dst: int, length: int) -> None:
        """Make the first ``length`` tokens of ``src`` those of ``dst`` too, sharing the cache."""
        self._alive(context=True)
        check_seq(src, self.n_seq_max)
        check_seq(dst, self.n_seq_max)
        if not 0 <= length <= self._lengths[src]:
            raise InputError(
                "no such prefix", found=f"{length} tokens", expected=f"0 to {self._lengths[src]}"
            )
        if src == dst:
            self.drop(dst, length)
            return
        if 0 < length < self._lengths[src] and self._stateful:
            raise UnsupportedModelError(
                "this model's cache can't share a part of a sequence", path=self._path
            )
        self.drop(dst)
        if length:
            self._lib.llama_memory_seq_cp(self._memory, src, dst, 0, length)
        self._lengths[dst] = length

    def drop(self, seq: int, start: int = 0) -> None:
        """Forget a sequence from position ``start`` on; this also repairs it after an interrupted call."""
        self._alive(context=True)
        check_seq(seq, self.n_seq_max)
        start = min(max(start, 0), self._lengths[seq])
        if not self._lib.llama_memory_seq_rm(self._memory, seq, start, -1):
            raise UnsupportedModelError(
                "this model's cache can't forget a part of a sequence", path=self._path
            )
        self._lengths[seq] = start

    def clear(self) -> None:
        """Forget all sequences: the next tokens take the cache's first places again."""
        self._alive(context=True)
        self._lib.llama_memory_clear(self._memory, False)
        self._lengths = [0] * self.n_seq_max

    def close(self) -> None:
        """Free the model; further calls are errors."""
        context, self._context = self._context, None
        model, self._model = self._model, None
        if context:
            self._lib.llama_free(context)
            self._threads.close()
        if model:
            self._forks.count -= 1
            if not self._forks.count:
                self._lib.llama_model_free(model)

    def __del__(self) -> None:
        """Free a model that nobody closed."""
        if getattr(self, "_model", None):
            self.close()

    def _alive(self, *, context: bool = False) -> None:
        if self._model is None:
            raise InputError("the model is closed", path=self._path)
        if context and self._context is None:
            raise InputError("the model was opened for its vocabulary only", path=self._path)
