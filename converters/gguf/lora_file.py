"""An unmerged adapter as a GGUF file, for runtimes that swap adapters over one base (llama.cpp's --lora).

llama.cpp adds ``alpha / rank · B·A``, with one alpha for the whole file: what rsLoRA or patterns scale otherwise is
multiplied into B. Layout: convert_lora_to_gguf.py and src/llama-adapter.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFWriter

from edgekit.converters.adapter import Adapter
from edgekit.converters.adapter_parts import Pair, Saved
from edgekit.converters.fit import misfits
from edgekit.converters.gguf import families
from edgekit.converters.gguf.decoder import interleave
from edgekit.converters.gguf.delta_net import Tiled
from edgekit.converters.gguf.family import Mapped, Part
from edgekit.converters.lora import refusal
from edgekit.converters.places import is_tied, tensor_of
from edgekit.errors import AdapterError
from edgekit.tensors import Float32, TensorSource

STORED = {"F32": (Q.F32, np.float32), "F16": (Q.F16, np.float16), "BF16": (Q.BF16, ml_dtypes.bfloat16)}
"""Types that the factors may be stored in."""
RUN = 1024
"""Rows that are compared at once."""

UNAPPLIED = frozenset({"per_layer_model_proj.weight"})
"""Matrices that llama.cpp multiplies by without looking for an adapter's factors."""


@dataclass(frozen=True)
class Factor:
    """One tensor of the file: its name, shape, and how its values are had."""

    name: str
    shape: tuple[int, ...]
    values: Callable[[], Float32]


@dataclass(frozen=True)
class AdapterFile:
    """What is written: the architecture it belongs to, its alpha, and the factors."""

    arch: str
    alpha: float
    factors: Sequence[Factor]

    def write(self, path: Path, name: str, kind: str = "F32") -> None:
        """Write the file with its factors in type ``kind``, one factor in memory at a time."""
        stored, dtype = STORED[kind]
        writer = GGUFWriter(path, self.arch)
        writer.add_type("adapter")
        writer.add_name(name)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", self.alpha)
        for factor in self.factors:
            nbytes = int(np.prod(factor.shape)) * np.dtype(dtype).itemsize
            writer.add_tensor_info(factor.name, factor.shape, np.dtype(np.float32), nbytes, raw_dtype=stored)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for factor in self.factors:
                with np.errstate(over="ignore"):
                    values = np.ascontiguousarray(factor.values().astype(dtype))
                if not np.isfinite(values).all():
                    raise AdapterError(f"{factor.name} holds values that {kind} can't", expected="F32")
                writer.write_tensor_data(values.view(np.uint8))
        finally:
            writer.close()


def lay_out(adapter: Adapter, base: TensorSource, folder: Path) -> AdapterFile:
    """Map an adapter through its base's family; ``AdapterError`` for what only a merge can do."""
    if problems := [*adapter.problems, *misfits(adapter, base), *_unmergeable(adapter, base)]:
        raise refusal(adapter, problems)
    family = families.find(base.config, folder / "config.json")
    by_tensor = {tensor_of(base, pair.module) or "": pair for pair in adapter.pairs.values()}
    alpha = _alpha(adapter)
    factors = [
        factor
        for mapped in family.tensors(base)
        for factor in _factors(adapter, base, mapped, by_tensor, alpha)
    ]
    placed = {factor.name for factor in factors}
    if len(placed) != len(factors) or len(placed) < 2 * len(by_tensor):
        raise refusal(adapter, ["its modules don't map to GGUF tensors one by one: merge it instead"])
    return AdapterFile(family.ARCH, alpha, factors)


def _unmergeable(adapter: Adapter, base: TensorSource) -> list[str]:
    problems = [
        f"{tensor} was trained whole: only a merge takes that along"
        for tensor, saved in adapter.saved.items()
        if not (saved.frozen and _is_of(base, tensor, adapter, saved))
    ]
    problems += [f"{module}: single tokens of it were trained; merge it instead" for module in adapter.tokens]
    for pair in adapter.pairs.values():
        name = tensor_of(base, pair.module)
        if pair.magnitude or pair.bias or pair.embedding or pair.parameter != "weight":
            problems.append(
                f"{pair.module}: its change is more than a plain B·A of a matrix; merge it instead"
            )
            continue
        if name is None or (is_tied(base) and name.endswith(("embed_tokens.weight", "wte.weight"))):
            problems.append(f"{pair.module}: is tied to the embedding, which only a merge can change apart")
        elif len(base.info(name).shape) != 2:
            problems.append(f"{pair.module}: is no plain matrix; merge it instead")
    return problems


def _is_of(base: TensorSource, tensor: str, adapter: Adapter, saved: Saved) -> bool:
    """Whether a tensor that PEFT kept beside its factors is the base's own; both are read in runs of rows."""
    module, _, parameter = tensor.rpartition(".")
    name, info = tensor_of(base, module, parameter), adapter.info(saved.name)
    if name is None or base.info(name).shape != info.shape:
        return False
    return all(
        np.array_equal(adapter.read(saved.name, start, stop), base.read(name, slice(start, stop)))
        for start in range(0, info.rows, RUN)
        for stop in (min(start + RUN, info.rows),)
    )


def _alpha(adapter: Adapter) -> float:
    """The alpha that leaves most factors as they are: the one of the first pair that changes anything."""
    alphas = (float(np.float32(pair.scale * pair.rank)) for pair in adapter.pairs.values())
    if not (alpha := next((alpha for alpha in alphas if alpha), 0.0)):
        # llama.cpp reads an alpha of zero as none, and would add the factors unscaled.
        raise refusal(adapter, ["its scale is zero: it changes nothing"])
    return alpha


def _factors(
    adapter: Adapter, base: TensorSource, mapped: Mapped, pairs: Mapping[str, Pair], alpha: float
) -> list[Factor]:
    """The two factors of one GGUF tensor, or none if the adapter doesn't change it."""
    parts = mapped.parts or tuple(Part(name, 0, base.info(name).rows) for name in mapped.sources)
    changed = [part for part in parts if part.source in pairs]
    if not changed:
        return []
    pair, transform = pairs[changed[0].source], mapped.transform
    if mapped.name in UNAPPLIED:
        raise refusal(adapter, [f"{pair.module}: llama.cpp applies no adapter there; merge it instead"])
    if len(mapped.sources) > 1 or not (transform is None or isinstance(transform, interleave | Tiled)):
        raise refusal(adapter, [f"{pair.module}: becomes part of {mapped.name}; merge it instead"])
    shape_a, shape_b = adapter.factor_shape(pair.a), adapter.factor_shape(pair.b)
    rows = sum(part.stop - part.start for part in parts)

    def right() -> Float32:
        values = adapter.factor(pair.a)
        return transform(values) if isinstance(transform, Tiled) else values

    def left() -> Float32:
        # A base's columns that become rows are outputs too, and so are rows of B.
        values = adapter.factor(pair.b)
        values = np.concatenate([values[part.start : part.stop] for part in parts])
        if isinstance(transform, interleave):
            values = transform(values)
        return np.ascontiguousarray(values * np.float32(pair.scale * pair.rank / alpha))

    return [
        Factor(f"{mapped.name}.lora_a", shape_a, right),
        Factor(f"{mapped.name}.lora_b", (rows, shape_b[1]), left),
    ]
