"""Merge LoRA adapters into a base while it streams: rows of W + scale·B·A, in float32, never stored.

W' = W + Σ weight·(alpha / r)·B·A, or alpha / √r for rsLoRA (https://arxiv.org/abs/2106.09685, 2312.03732).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from edgekit.converters.adapter import Adapter, Pair, input_embedding, is_tied, tensor_of
from edgekit.converters.adapter_config import targets
from edgekit.converters.dtypes import scratch, widen
from edgekit.errors import AdapterError
from edgekit.tensors import ALL, Float32, TensorInfo, TensorSource, span

HEAD = "lm_head.weight"
CONV1D = {"gpt2", "gpt_bigcode", "openai-gpt"}
"""Model types whose linear layers store (in, out): a LoRA's product is added transposed (fan_in_fan_out)."""

FACTORS_CACHED = 4
"""Tensors whose factors are kept at once; threads work on neighbouring chunks."""


@dataclass(frozen=True)
class Change:
    """One adapter's change to one tensor."""

    adapter: Adapter
    pair: Pair
    weight: float


class Merged:
    """A base with adapters merged in, as a ``TensorSource``; raises ``AdapterError`` if anything doesn't fit."""

    def __init__(self, base: TensorSource, adapters: Sequence[tuple[Adapter, float]]) -> None:
        self.base = base
        self._changes: dict[str, list[Change]] = {}
        self._replaced: dict[str, tuple[Adapter, str]] = {}
        self._tied = is_tied(base)
        self._embedding = input_embedding(base.names())
        for adapter, weight in adapters:
            if problems := [*adapter.problems, *misfits(adapter, base)]:
                raise refusal(adapter, problems)
            self._plan(adapter, weight)
        self._untied = self._tied and bool({HEAD, self._embedding} & {*self._changes, *self._replaced})
        self._names = (*base.names(), HEAD) if self._untied else tuple(base.names())
        self.config: Mapping[str, Any] = (
            {**base.config, "tie_word_embeddings": False} if self._untied else base.config
        )
        self._factors = lru_cache(FACTORS_CACHED)(self._read_factors)

    @property
    def untied(self) -> bool:
        """Whether the merge gave the output head weights of its own."""
        return self._untied

    @property
    def changed(self) -> Sequence[str]:
        """Names of the tensors that the adapters change or replace."""
        return tuple(sorted({*self._changes, *self._replaced}))

    def names(self) -> Sequence[str]:
        return self._names

    def info(self, name: str) -> TensorInfo:
        return self.base.info(self._stored(name))

    def read(self, name: str, rows: slice = ALL, out: Float32 | None = None) -> Float32:
        start, stop = span(rows, self.info(name).rows)
        if name in self._replaced:
            out = read_own(*self._replaced[name], start, stop, out)
        else:
            out = self.base.read(self._stored(name), slice(start, stop), out)
        if name in self._changes:
            left, right = self._factors(name)
            out += left[start:stop] @ right
        return out

    def prefetch(self, name: str, rows: slice = ALL) -> None:
        if name not in self._replaced:
            self.base.prefetch(self._stored(name), rows)

    def _stored(self, name: str) -> str:
        """Where the base keeps a tensor: a tied head is its input embedding."""
        return self._embedding if name == HEAD and self._tied and self._embedding else name

    def _plan(self, adapter: Adapter, weight: float) -> None:
        for module, pair in adapter.pairs.items():
            self._changes.setdefault(self._name(module), []).append(Change(adapter, pair, weight))
        for tensor, own in adapter.saved.items():
            module, _, parameter = tensor.rpartition(".")
            name = self._name(module, parameter)
            if weight != 1.0:
                raise refusal(
                    adapter, [f"{tensor} was trained whole: it can't be merged with weight {weight}"]
                )
            if name in self._replaced:
                raise refusal(adapter, [f"{tensor} is replaced by {self._replaced[name][0].folder} too"])
            self._replaced[name] = (adapter, own)

    def _name(self, module: str, parameter: str = "weight") -> str:
        return tensor_of(self.base, module, parameter) or HEAD

    def _read_factors(self, name: str) -> tuple[Float32, Float32]:
        """Left (rows, ranks) and right (ranks, columns) of all changes to a tensor, scales included."""
        lefts, rights = [], []
        for change in self._changes[name]:
            a = read_own(change.adapter, change.pair.a)
            b = read_own(change.adapter, change.pair.b)
            left, right = (a.T, b.T) if _is_transposed(self.base, name) else (b, a)
            lefts.append(left)
            rights.append(right * np.float32(change.pair.scale * change.weight))
        return np.ascontiguousarray(np.hstack(lefts)), np.ascontiguousarray(np.vstack(rights))


def read_own(
    adapter: Adapter, name: str, start: int = 0, stop: int | None = None, out: Float32 | None = None
) -> Float32:
    """Rows of one of the adapter's tensors in float32; ``AdapterError`` if they aren't finite."""
    extent = adapter.file.tensors[name]
    info = extent.info
    stop = info.rows if stop is None else stop
    if out is None:
        out = np.empty(info.part(stop - start), np.float32)
    row_bytes = extent.nbytes // max(1, info.rows)
    raw = scratch((stop - start) * row_bytes)
    adapter.file.read_into(extent.offset + start * row_bytes, raw.data)
    if info.dtype == "F32":
        out.reshape(-1)[...] = raw.view("<f4")
    else:
        widen(raw, info.dtype, out.reshape(-1))
    if not np.isfinite(out).all():
        raise AdapterError(f"tensor {name!r} holds values that aren't finite", path=adapter.file.path)
    return out


def _is_transposed(base: TensorSource, name: str) -> bool:
    return base.config.get("model_type") in CONV1D and name != HEAD


def misfits(adapter: Adapter, base: TensorSource) -> list[str]:
    """Everything about an adapter that doesn't fit a base, in plain words; empty if it can be merged."""
    problems = _doubles(adapter, base)
    tied = is_tied(base)
    for pair in adapter.pairs.values():
        name = tensor_of(base, pair.module) or (HEAD if pair.module == "lm_head" and tied else None)
        if name is None:
            problems.append(f"{pair.module}: the base has no such module")
            continue
        if name == input_embedding(base.names()):
            problems.append(f"{pair.module}: adapters on the input embedding are not supported yet")
            continue
        stored = input_embedding(base.names()) if name == HEAD and tied else name
        shape = base.info(stored or name).shape
        change = (adapter.info(pair.b).shape[0], adapter.info(pair.a).shape[1])
        if shape != (change[::-1] if _is_transposed(base, name) else change):
            problems.append(f"{pair.module}: the adapter changes a {change} weight, the base has {shape}")
    problems += _saved_misfits(adapter, base, tied)
    if adapter.config.get("ensure_weight_tying") and tied and (adapter.saved or "lm_head" in adapter.pairs):
        problems.append("ensure_weight_tying with trained embeddings is not supported yet")
    return problems + _missing(adapter, base)


def _doubles(adapter: Adapter, base: TensorSource) -> list[str]:
    """Two modules of one adapter must not become one tensor of the base."""
    seen: dict[str, str] = {}
    problems = []
    for module in adapter.pairs:
        name = tensor_of(base, module)
        if name is not None and seen.setdefault(name, module) != module:
            problems.append(f"{module}: changes {name}, as {seen[name]} does")
    return problems


def _saved_misfits(adapter: Adapter, base: TensorSource, tied: bool) -> list[str]:
    problems = []
    embedding = input_embedding(base.names())
    for tensor, own in adapter.saved.items():
        module, _, parameter = tensor.rpartition(".")
        name = tensor_of(base, module, parameter) or (embedding if tensor == HEAD and tied else None)
        if name is None:
            problems.append(f"{tensor}: the base has no such tensor")
        elif tied and not adapter.asked(tensor):
            problems.append(
                f"{tensor}: saved whole, but not in modules_to_save; on tied embeddings that is unclear"
            )
        elif adapter.info(own).shape != base.info(name).shape:
            problems.append(
                f"{tensor}: saved as {adapter.info(own).shape}, the base has {base.info(name).shape}"
            )
    return problems


def _missing(adapter: Adapter, base: TensorSource) -> list[str]:
    """Modules that the configuration targets and the file has nothing for: a truncated adapter."""
    if adapter.config.get("target_modules") == "all-linear":
        return []
    have = {tensor_of(base, module) for module in adapter.pairs}
    missing = [
        name.removesuffix(".weight")
        for name in base.names()
        if name.endswith(".weight")
        and len(base.info(name).shape) == 2
        and name not in have
        and targets(adapter.config, name.removesuffix(".weight"))
    ]
    return [f"{module}: is targeted, but the adapter has no weights for it" for module in missing]


def refusal(adapter: Adapter, problems: Sequence[str]) -> AdapterError:
    """An adapter that can't be used with its base, and the first reasons why."""
    shown = [*problems[:5], *([f"and {len(problems) - 5} more"] if len(problems) > 5 else [])]
    return AdapterError(
        "the adapter can't be merged",
        path=adapter.folder,
        found="; ".join(shown),
        expected=f"an adapter for this base (it names {adapter.base_name or 'no base'})",
        next_step="edgekit inspect ADAPTER --base BASE lists everything",
    )
