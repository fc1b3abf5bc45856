"""The engine that runs an artifact, by its format: llama.cpp for GGUF, ONNX Runtime for ONNX, transformers for GPTQ and AWQ."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from edgekit.choosing import best, choose_among, find, open_engine
from edgekit.errors import InputError
from edgekit.forms import context_of, is_gguf, is_onnx

if TYPE_CHECKING:
    from edgekit.intended import Intended
    from edgekit.profiles.choice import RuntimeChoice
    from edgekit.runtimes.engine import Engine
    from edgekit.runtimes.rows import RowsEngine, RowsOptions

SLOW: Final = (
    "GPTQ and AWQ are made for NVIDIA cards, and there is none that torch can use: on this CPU they run slowly; "
    "a GGUF of the same model is the better artifact: edgekit build --quant Q4_K_M"
)
LLAMA_ONLY: Final = ("n_kv", "batch_threads", "n_gpu_layers")


@dataclass(frozen=True)
class Wishes:
    """What ``edgekit.load`` was asked for; None and zeros leave it to the picker."""

    n_ctx: int | None = None
    n_parallel: int = 1
    n_kv: int | None = None
    kv_type: Literal["f16", "q8_0", "f32"] = "f16"
    threads: int = 0
    batch_threads: int = 0
    n_gpu_layers: int | None = None


Team = Callable[[], Sequence["Engine"]]
"""Opens more engines over the same weights."""


def plain(
    place: Path, *, n_ctx: int | None = None, threads: int = 0, n_outputs: int = 64, vocab_only: bool = False
) -> Engine:
    """An artifact as it stands, with one sequence; nothing is picked. Raises as the engines do.

    ``n_ctx`` is cut to the model's own context where one outside GGUF has less.
    """
    if not is_gguf(place):
        from edgekit.runtimes.rows import RowsOptions

        fits = None if n_ctx is None else min(n_ctx, context_of(place))
        return rows(place, RowsOptions(n_ctx=fits, threads=threads), vocab_only=vocab_only)
    from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

    options = LlamaCppOptions(n_ctx=n_ctx, threads=threads, n_outputs=n_outputs)
    return LlamaCppEngine(place, options, vocab_only=vocab_only)


def rows(place: Path, options: RowsOptions, *, vocab_only: bool = False) -> RowsEngine:
    """An artifact outside GGUF: the engine of its format."""
    if is_onnx(place):
        from edgekit.runtimes.onnx import OnnxEngine

        return OnnxEngine(place, options, vocab_only=vocab_only)
    from edgekit.runtimes.gptq import GptqEngine

    return GptqEngine(place, options, vocab_only=vocab_only)


def picked(
    path: Path, artifact: AbstractContextManager[Path], wishes: Wishes, meant: Intended | None = None
) -> tuple[Engine, Team | None, RuntimeChoice]:
    """A model with what is wished, and the rest as picked for this machine; see ``open_engine``."""
    if find(path).format != "gguf":
        return _rows(path, artifact, wishes, meant)
    from edgekit.runtimes.llamacpp import LlamaCppOptions
    from edgekit.runtimes.teams import forks

    options = LlamaCppOptions(
        n_ctx=wishes.n_ctx,
        n_seq_max=wishes.n_parallel,
        n_kv=wishes.n_kv,
        kv_type=wishes.kv_type,
        threads=wishes.threads,
        batch_threads=wishes.batch_threads,
        n_gpu_layers=wishes.n_gpu_layers,
    )
    engine, options, choice = open_engine(path, artifact, options, meant)
    return engine, forks(engine, options), choice


def _rows(
    path: Path, artifact: AbstractContextManager[Path], wishes: Wishes, meant: Intended | None
) -> tuple[Engine, None, RuntimeChoice]:
    from edgekit.here import hardware
    from edgekit.profiles.choice import Preferences
    from edgekit.profiles.suited import unsuited
    from edgekit.runtimes.rows import RowsOptions

    asked = [name for name in LLAMA_ONLY if getattr(wishes, name)]
    if wishes.kv_type == "q8_0" or asked:
        raise InputError(
            "a model outside GGUF has no such setting", path=path, found=", ".join(asked) or "kv_type='q8_0'",
            expected="n_ctx, n_parallel and threads: each sequence keeps its own n_ctx tokens",
        )  # fmt: skip
    machine = hardware()
    preferences = Preferences(context=wishes.n_ctx, sequences=wishes.n_parallel, threads=wishes.threads)
    choice = best(choose_among([find(path)], machine, preferences), machine, path)
    if meant is not None and (why := unsuited(meant, machine, choice.decode_tps)):
        warnings.warn(f"{path}: {why}", RuntimeWarning, stacklevel=4)
    if choice.runtime == "gptqmodel" and choice.device == "CPU":
        warnings.warn(f"{path}: {SLOW}", RuntimeWarning, stacklevel=4)
    options = RowsOptions(wishes.n_ctx, wishes.n_parallel, choice.threads)
    with artifact as place:
        return rows(place, options), None, choice
