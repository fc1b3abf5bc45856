"""How llama.cpp is asked to open a model: the options, and what becomes of those that nobody set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from edgekit.errors import InputError
from edgekit.runtimes.cores import default_threads
from edgekit.runtimes.flat import check_options

DEFAULT_CONTEXT: Final = 4096
"""Cap on the context when none is asked for: a 128k context would reserve gigabytes of KV cache."""

SHORT: Final = 256
"""Tokens of KV cache for each of several sequences where the context alone would give them less."""

_KV_TYPES: Final = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}


@dataclass(frozen=True)
class LlamaCppOptions:
    """How a model is opened; zeros and None mean "work it out"."""

    n_ctx: int | None = None
    """Tokens per sequence; unset: what the model was trained with, at most 4096."""
    n_seq_max: int = 1
    n_kv: int | None = None
    """Tokens that all sequences hold together; unset: ``n_ctx``, or 256 a sequence where that is more."""
    threads: int = 0
    """For one token at a time; unset: the physical cores that this process may use."""
    batch_threads: int = 0
    """For prompts; unset: as ``threads``."""
    n_batch: int = 512
    """Tokens per call into llama.cpp."""
    n_outputs: int = 64
    """Positions per call whose logits can be wanted: each reserves ``n_vocab`` floats."""
    n_gpu_layers: int | None = None
    """Layers on the GPU; unset: all where llama.cpp was built for one, else 0."""
    kv_type: Literal["f16", "f32", "q8_0"] = "f16"
    """How keys and values are kept; f32 rounds nothing, at twice the memory and without flash attention; q8_0 takes
    half the memory of f16 and is faster on CPUs that multiply bytes."""
    value_type: Literal["f16", "f32", "q8_0", "bf16"] | None = None
    """How values are kept, if not as keys are."""
    flash: bool | None = None
    """Flash attention; unset: as llama.cpp decides, which is yes wherever it can."""
    repack: bool | None = None
    """Rearrange weights for faster prompts; unset: yes, unless that means AMX code that doesn't work (see ``_amx``)."""
    writable: bool = False
    """Read weights into memory, in the order that they have in the file, instead of mapping it: they can be changed there."""
    on_node: Any = None
    """A ``ggml_backend_sched_eval_callback`` that sees every node of the graph; who passes one keeps it alive."""

    def __post_init__(self) -> None:
        check_options(
            {
                "n_ctx": (self.n_ctx or 0, 0, 2**24),
                "n_seq_max": (self.n_seq_max, 1, 256),
                "n_kv": (self.n_kv or 0, 0, 2**31 - 1),
                "threads": (self.threads, 0, 512),
                "batch_threads": (self.batch_threads, 0, 512),
                "n_batch": (self.n_batch, 1, 2**16),
                "n_outputs": (self.n_outputs, 1, 2**16),
                "n_gpu_layers": (self.n_gpu_layers or 0, -1, 2**16),
            }
        )
        if self.kv_type not in _KV_TYPES:
            raise InputError(
                "there is no such kv_type", found=repr(self.kv_type), expected=", ".join(_KV_TYPES)
            )


def context_params(lib: Any, options: LlamaCppOptions, n_ctx: int) -> Any:
    """llama.cpp's own parameters of a context of ``n_ctx`` tokens a sequence."""
    params = lib.llama_context_default_params()
    wanted = options.n_kv or max(n_ctx, SHORT * (options.n_seq_max if options.n_seq_max > 1 else 0))
    params.n_ctx = max(n_ctx, wanted)
    params.n_seq_max = options.n_seq_max
    # One stream for all sequences: the only layout in which a part of a prefix can be shared.
    params.kv_unified = True
    params.n_batch = params.n_ubatch = options.n_batch
    params.type_k = _KV_TYPES[options.kv_type]
    params.type_v = _KV_TYPES[options.value_type or options.kv_type]
    if options.flash is not None or options.kv_type == "f32":  # it would round f32 to f16
        flash = options.flash and options.kv_type != "f32"
        on, off = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED, lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = on if flash else off
    params.n_outputs_max = max(options.n_outputs, options.n_seq_max)
    params.n_threads = options.threads or default_threads()
    params.n_threads_batch = options.batch_threads or params.n_threads
    if options.on_node is not None:
        params.cb_eval = options.on_node
    return params
