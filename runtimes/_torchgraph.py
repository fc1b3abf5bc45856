"""A GPTQ or AWQ model in transformers: keys and values in buffers of ours, several sequences in one call."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from io import StringIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError, HardwareError, InputError, RuntimeUnavailableError
from edgekit.packed_folder import PackedFolder
from edgekit.runtimes.engine import Logits

INSTALL: Final = "pip install 'edgekit[gptq]'"
CHUNK: Final = 512
"""Tokens of a prompt in one call at most."""
BUFFER: Final = 1 << 24
"""Logits of one call at most: 64 MB."""
_LOUD: Final = ("transformers", "torchao", "optimum", "torch.utils._pytree")


@contextmanager
def quiet() -> Iterator[None]:
    """What these packages tell of themselves while they load is no one's answer."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [one.level for one in loggers]
    bars = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        from logbar import LogBar

        LogBar.shared().setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars is None:
            del os.environ["HF_HUB_DISABLE_PROGRESS_BARS"]
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def packages() -> tuple[Any, Any]:
    """torch and transformers; ``RuntimeUnavailableError`` with what to install where they, or the kernels, are missing."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with fewer cores than it counts on, it gives up
    try:
        with redirect_stdout(StringIO()), quiet():  # its log begins with an empty line
            import gptqmodel  # noqa: F401
            import optimum  # noqa: F401
            import torch
            import transformers
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeUnavailableError(
            "what runs GPTQ and AWQ is missing, or doesn't load", found=str(error)[:300], next_step=INSTALL
        ) from error
    return torch, transformers


class TorchGraph:
    """One model with room for the keys and values of ``n_seq`` sequences of ``n_ctx`` tokens."""

    def __init__(self, packed: PackedFolder, threads: int, n_seq: int, n_ctx: int) -> None:
        self._torch, transformers = packages()
        self._packed = packed
        torch = self._torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.n_vocab: int = packed.config["vocab_size"]
        self.chunk = max(1, min(CHUNK, BUFFER // self.n_vocab))
        if self.device == "cpu":
            torch.set_num_threads(threads)
        # The CPU's kernels sum in float32, which costs them nothing: unpacked weights are what takes their time.
        dtype = torch.float16 if self.device == "cuda" else torch.float32
        self._model = self._loaded(transformers, dtype)
        self._cache = self._buffers(dtype, n_seq, n_ctx)

    def _loaded(self, transformers: Any, dtype: Any) -> Any:
        try:
            with quiet():
                model = transformers.AutoModelForCausalLM.from_pretrained(
                    str(self._packed.folder), device_map=self.device, dtype=dtype, local_files_only=True,
                    trust_remote_code=False, attn_implementation="sdpa",
                )  # fmt: skip
        except (MemoryError, self._torch.OutOfMemoryError) as error:
            raise HardwareError(
                f"no room for the model on {self.device}", path=self._packed.folder, found=str(error)[:300],
                next_step="free memory, or build with fewer bits",
            ) from error  # fmt: skip
        except Exception as error:
            raise BundleError(
                "transformers can't load this model", path=self._packed.folder, found=str(error)[:500],
                next_step="build it again, or run `edgekit verify` on the bundle that it came in",
            ) from error  # fmt: skip
        return model.eval()

    def _buffers(self, dtype: Any, n_seq: int, n_ctx: int) -> Any:
        config = self._packed.config
        heads = config.get("num_key_value_heads") or config["num_attention_heads"]
        head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        # One place more: a sequence that only fills a gap between others writes where nothing is kept.
        shape = (n_seq, heads, n_ctx + 1, head)
        try:
            return _cache(self._torch, config["num_hidden_layers"], shape, dtype, self.device)
        except (MemoryError, self._torch.OutOfMemoryError, RuntimeError) as error:
            raise HardwareError(
                f"no room for {n_seq} sequence(s) of {n_ctx} tokens", path=self._packed.folder,
                found=str(error)[:300], next_step="ask for a smaller n_ctx or fewer sequences",
            ) from error  # fmt: skip

    def run(self, first: int, ids: NDArray[np.int64], lengths: Sequence[int]) -> Logits:
        """See ``rows.Graph``."""
        torch = self._torch
        rows, count = ids.shape
        starts = torch.tensor(lengths, device=self.device)
        positions = starts[:, None] + torch.arange(count, device=self.device)
        total = max(lengths) + count
        # Places of the context that each token looks at, itself the last of them.
        mask = torch.arange(total, device=self.device) <= positions[:, :, None]
        self._cache.turn(first, rows, positions, total)
        try:
            with torch.inference_mode(), self._eager():
                found = self._model(
                    input_ids=torch.from_numpy(np.ascontiguousarray(ids)).to(self.device),
                    attention_mask=mask[:, None], position_ids=positions, past_key_values=self._cache,
                    use_cache=True,
                ).logits  # fmt: skip
        except (RuntimeError, self._torch.OutOfMemoryError) as error:
            raise InputError(
                "transformers could not compute the tokens", path=self._packed.folder, found=str(error)[:500]
            ) from error
        logits: Logits = found.float().cpu().numpy()
        return logits

    def _eager(self) -> AbstractContextManager[Any]:
        """On a CPU nothing is compiled: it would take a compiler, and shapes change too often for it to pay."""
        stance: AbstractContextManager[Any] = (
            self._torch.compiler.set_stance("force_eager") if self.device == "cpu" else nullcontext()
        )
        return stance

    def step(self, seq: int, token: int, length: int) -> Logits:
        """See ``rows.Graph``."""
        row: Logits = self.run(seq, np.array([[token]], np.int64), [length])[0]
        return row

    def copy(self, source: int, target: int, length: int) -> None:
        """See ``rows.Graph``."""
        for layer in self._cache.layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]


def _cache(torch: Any, layers: int, shape: tuple[int, ...], dtype: Any, device: str) -> Any:
    """transformers' cache over one block of keys and one of values a layer; ``turn`` says which part a call is for."""
    from transformers.cache_utils import Cache, CacheLayerMixin

    class Layer(CacheLayerMixin):  # type: ignore[misc]
        is_sliding = False

        def __init__(self) -> None:
            super().__init__()
            self.keys = torch.zeros(shape, dtype=dtype, device=device)
            self.values = torch.zeros(shape, dtype=dtype, device=device)
            self.is_initialized = True
            self.part: tuple[int, int, Any, int] = (0, 0, None, 0)

        def lazy_initialization(self, key_states: Any, value_states: Any) -> None: ...

        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            first, rows, positions, total = self.part
            where = torch.arange(first, first + rows, device=device)[:, None]
            # Indexing by two arrays puts their axes first: (rows, tokens, heads, size).
            self.keys[where, :, positions] = key_states.transpose(1, 2).to(dtype)
            self.values[where, :, positions] = value_states.transpose(1, 2).to(dtype)
            last = first + rows
            return self.keys[first:last, :, :total], self.values[first:last, :, :total]

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            return self.part[3], 0

        def get_seq_length(self) -> int:
            return self.part[3]

        def get_max_length(self) -> int:
            return shape[2]

    class Rows(Cache):  # type: ignore[misc]
        def turn(self, first: int, rows: int, positions: Any, total: int) -> None:
            for layer in self.layers:
                layer.part = (first, rows, positions, total)

    return Rows(layers=[Layer() for _ in range(layers)])
