"""What a model family tells the converter; one file per family implements it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gguf import GGUFValueType

from edgekit.converters.gguf.presets import Model
from edgekit.errors import InputError, UnsupportedModelError
from edgekit.tensors import Float32, TensorInfo, TensorSource

U32, F32, STRING, BOOL, ARRAY = (
    GGUFValueType.UINT32,
    GGUFValueType.FLOAT32,
    GGUFValueType.STRING,
    GGUFValueType.BOOL,
    GGUFValueType.ARRAY,
)


@dataclass(frozen=True)
class Entry:
    """One key of GGUF metadata, its value and the type it is stored as."""

    key: str
    value: Any
    kind: GGUFValueType


@dataclass(frozen=True)
class Part:
    """Rows ``start`` to ``stop`` of a checkpoint's tensor, counted as ``TensorSource.read`` counts them.

    Or its ``columns``, which become rows.
    """

    source: str
    start: int
    stop: int
    columns: bool = False

    def shape(self, info: TensorInfo) -> tuple[int, ...]:
        """The shape that is read, of a tensor with ``info``."""
        count = self.stop - self.start
        return (count, info.shape[0]) if self.columns else info.part(count)

    def read(self, source: TensorSource, out: Float32) -> None:
        """Fill ``out``, which has that shape."""
        read = source.read_columns if self.columns else source.read
        read(self.source, slice(self.start, self.stop), out)


@dataclass(frozen=True)
class Mapped:
    """One GGUF tensor and where it comes from.

    ``shape`` is numpy's (rows first; experts before rows). It comes from the whole of ``source``, or from ``parts``
    put one below the other: a slice of a fused weight, a stack of experts, heads in another order. Rows are read in
    multiples of ``unit``, then given to ``transform``, which keeps their number and length unless it gets all at
    once. A tensor that no checkpoint holds has its ``values`` instead.
    """

    name: str
    shape: tuple[int, ...]
    source: str = ""
    unit: int = 1
    transform: Callable[[Float32], Float32] | None = None
    values: Float32 | None = None
    parts: tuple[Part, ...] = ()

    @property
    def sources(self) -> set[str]:
        """Names of the checkpoint's tensors that it is made of."""
        return {part.source for part in self.parts} or ({self.source} if self.source else set())


class Family(Protocol):
    """One architecture family: known from config.json alone, mapped without reading a tensor."""

    ARCHITECTURES: Sequence[str]
    """Names in config.json's ``architectures``."""
    ARCH: str
    """llama.cpp's name of it."""
    IGNORED: Sequence[str]
    """Endings of tensor names that some checkpoints carry and that follow from the config."""

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise ``UnsupportedModelError`` or ``InputError`` for a config that can't be converted right."""
        ...

    def metadata(self, config: Mapping[str, Any]) -> list[Entry]:
        """The architecture's own keys, in the order of llama.cpp's converter."""
        ...

    def tensors(self, source: TensorSource) -> list[Mapped]:
        """Every GGUF tensor; ``InputError`` for one that is missing or of a wrong shape."""
        ...

    def mixture(self, config: Mapping[str, Any]) -> Model:
        """What the presets look at."""
        ...


def whole(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A positive whole number of config.json."""
    value = config.get(key, default)
    value = default if value is None else value
    if type(value) is not int or not 0 < value < 1 << 31:
        raise InputError(f"config.json's {key} is unsound", found=value, expected="a positive whole number")
    return value


def number(config: Mapping[str, Any], key: str, default: float) -> float:
    """A positive number of config.json."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise InputError(f"config.json's {key} is unsound", found=value, expected="a positive number")
    return float(value)


def expect(source: TensorSource, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """``shape``, if the source has the tensor in it; ``InputError`` otherwise.

    A source without weights (``Foreseen``) learns its shapes here.
    """
    try:
        if learn := getattr(source, "learn", None):
            learn(name, shape)
        found = source.info(name).shape
    except KeyError:
        raise InputError(
            f"tensor {name!r} is missing", expected=f"shape {shape}, as config.json has it"
        ) from None
    if found != shape:
        raise InputError(
            f"tensor {name!r} doesn't match config.json",
            found=f"shape {found}",
            expected=f"shape {shape}",
            next_step="check that config.json and the weights are of the same model",
        )
    return shape


def unsupported(what: str, found: object, expected: str) -> UnsupportedModelError:
    """A config value that would convert to something wrong."""
    return UnsupportedModelError(what, path="config.json", found=found, expected=expected)
