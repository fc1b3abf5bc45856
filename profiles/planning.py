"""Which quantization a device gets: the best that fits its budget and is fast enough. Pure, and predicted by the picker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edgekit.profiles.choice import Artifact, Preferences
from edgekit.profiles.devices import Device
from edgekit.profiles.others import LIBRARIES
from edgekit.profiles.pick import BATCH, pick
from edgekit.profiles.predict import Shape, memory
from edgekit.profiles.quality import LOSSLESS, TRAINED_FOR, rank
from edgekit.profiles.stand_in import hardware
from edgekit.profiles.structs import Hardware

CONTEXTS: Final = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)
"""Tokens that memory is told for, up to those that the model was trained for."""
KV_TYPE: Final = "f16"
UNNAMED: Final = "not among the quantizations that the target names"
TERNARY: Final = "only for models that were trained with such weights"


@dataclass(frozen=True)
class Candidate:
    """A quantization that could be built, by its shape; ``barred`` says why it can't be."""

    artifact: Artifact
    barred: str | None = None

    @property
    def quantization(self) -> str:
        """Its name."""
        return self.artifact.quantization


@dataclass(frozen=True)
class Row:
    """One quantization on one device."""

    target: str
    format: str
    quantization: str
    size_bytes: int
    memory_bytes: Mapping[int, int]
    """Bytes by context in tokens; ``context`` is among them."""
    context: int
    decode_tps: float
    over: int
    """Bytes beyond the budget; less than nothing where room is left."""
    fast: bool
    barred: str | None
    chosen: bool
    reasons: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether it stays within the memory budget."""
        return self.over <= 0

    @property
    def usable(self) -> bool:
        """Whether it can be built, fits and is fast enough."""
        return self.fits and self.fast and self.barred is None


def plan(device: Device, candidates: Iterable[Candidate]) -> list[Row]:
    """A row for each candidate, those that lose least first; one is chosen where any can be."""
    machine = hardware(device)
    rows = [_row(device, machine, one) for one in candidates]
    rows.sort(key=lambda row: (rank(row.quantization), row.size_bytes))
    best = choose(rows)
    return [_explained(row, best, device) for row in rows]


def choose(rows: Sequence[Row]) -> Row | None:
    """The usable row that loses least; the smallest where several lose the same."""
    usable = [row for row in rows if row.usable]
    return min(usable, key=lambda row: (rank(row.quantization), row.size_bytes), default=None)


def context_of(device: Device, shape: Shape) -> int:
    """What the device asks for, no more than the model was trained for."""
    return min(device.context, shape.trained)


def need(shape: Shape, context: int, kv_type: str = KV_TYPE, runtime: str = "llama.cpp") -> int:
    """Bytes that a model takes with a context, its runtime's code among them."""
    found = memory(shape, context=context, kv_type=kv_type, batch=BATCH, sequences=1).total
    return found + LIBRARIES.get(runtime, 0)


def memory_by_context(
    shape: Shape, *more: int, kv_type: str = KV_TYPE, runtime: str = "llama.cpp"
) -> dict[int, int]:
    """Bytes by context in tokens, up to what the model was trained for; ``more`` contexts are among them."""
    lengths = sorted({*(n for n in CONTEXTS if n < shape.trained), *more, shape.trained})
    return {length: need(shape, length, kv_type, runtime) for length in lengths}


def _row(device: Device, machine: Hardware, candidate: Candidate) -> Row:
    shape = candidate.artifact.shape
    context = context_of(device, shape)
    wishes = Preferences(context=context, kv_type=KV_TYPE, n_gpu_layers=-1 if machine.gpus else 0)
    kv_type = "f32" if candidate.artifact.format == "onnx" else KV_TYPE
    choice = pick(machine, [candidate.artifact], wishes)[0]
    tps = choice.decode_tps or choice.rank_tps
    unwanted = device.quantizations and candidate.quantization not in device.quantizations
    return Row(
        target=device.name,
        format=candidate.artifact.format,
        quantization=candidate.quantization,
        size_bytes=shape.file_bytes,
        memory_bytes=memory_by_context(shape, context, kv_type=kv_type, runtime=choice.runtime),
        context=context,
        decode_tps=tps,
        over=choice.memory.total - device.budget,
        fast=tps >= device.min_tps,
        barred=UNNAMED
        if unwanted
        else candidate.barred or (TERNARY if candidate.quantization in TRAINED_FOR else None),
        chosen=False,
        reasons=(),
    )


def _explained(row: Row, best: Row | None, device: Device) -> Row:
    reasons = [row.barred] if row.barred else []
    taken = f"{_size(row.memory_bytes[row.context])} with a context of {row.context:,}"
    if row.over > 0:
        reasons.append(f"takes {taken}, {_size(row.over)} more than the budget")
    if not row.fast:
        reasons.append(f"predicted at {row.decode_tps:.1f} tok/s, less than {device.min_tps:g}")
    if row is best:
        reasons.append(
            f"loses least of those that fit and are fast enough: {taken}, {row.decode_tps:.1f} tok/s"
        )
    elif best and row.usable:
        same = row.quantization in LOSSLESS and best.quantization in LOSSLESS
        worse = f"loses more than {best.quantization}"
        reasons.append(f"larger than {best.quantization}, and no better" if same else worse)
    if device.context > row.context:
        reasons.append(f"the model was trained for {row.context:,} tokens; {device.context:,} are asked for")
    return replace(row, chosen=row is best, reasons=tuple(reasons))


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"
