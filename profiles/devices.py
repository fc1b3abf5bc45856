"""Devices to build for, each a commented TOML file: those beside this one, and the user's own by path.

A file says what a device has and how much of it a model may take; ``extends`` starts from another one's figures.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from edgekit.errors import InputError
from edgekit.files import MALFORMED, read_bounded
from edgekit.profiles import tables

LIMIT: Final = 64 << 10
"""Bytes of a device's file at most."""
DEPTH: Final = 5
"""Files that extend each other at most."""
GB: Final = 1e9
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Positive = Annotated[float, msgspec.Meta(gt=0)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Simd = Literal[
    "SSE3", "AVX", "F16C", "FMA", "AVX2", "AVX-VNNI", "AVX-512", "AVX-512 VNNI", "AVX-512 BF16", "AVX-512 FP16",
    "AMX BF16", "AMX INT8", "NEON", "dotprod", "i8mm", "BF16", "SVE",
]  # fmt: skip


class Cpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The processor: cores that decode, and the instruction sets that llama.cpp has kernels for."""

    name: Text
    cores: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    """Physical cores of the fastest kind."""
    efficiency_cores: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    simd: list[Simd] = []


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The accelerator that the model runs on, all of it."""

    name: Text
    api: Literal["cuda", "rocm", "metal", "vulkan", "webgpu"]
    memory_gb: Positive | None = None
    """Its own; left out where it shares main memory."""
    bandwidth_gb_s: Positive | None = None
    """Of the memory that it reads; left out where that is main memory at main memory's speed."""


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One device to build for. GB are 1e9 bytes, speeds are tokens a second."""

    name: str
    about: Text
    system: Literal["Linux", "Windows", "macOS", "browser"]
    architecture: Literal["x86_64", "aarch64", "wasm32"]
    memory_gb: Positive
    """Main memory that the system sees."""
    budget_gb: Positive
    """What a model may take with its context and buffers: on the GPU where that has memory of its own."""
    bandwidth_gb_s: Positive
    """What all cores together read of main memory a second."""
    cpu: Cpu
    gpu: Gpu | None = None
    formats: Annotated[list[Literal["gguf", "onnx", "gptq", "awq"]], msgspec.Meta(min_length=1)]
    """What is preferred first."""
    context: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    """Tokens that it must hold."""
    min_tps: Positive
    """Decode speed below which it isn't worth having."""
    quantizations: list[str] = []
    """Where only some are wanted; all of them otherwise."""

    @property
    def budget(self) -> int:
        """``budget_gb`` in bytes."""
        return int(self.budget_gb * GB)


def names() -> list[str]:
    """The devices that come with edgekit, sorted."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in files("edgekit.profiles").iterdir()
        if entry.name.endswith(".toml")
    )


def source(name_or_path: str | os.PathLike[str]) -> Path:
    """The TOML file of a device: one of ``names()``, or a path; ``InputError`` with the nearest names otherwise."""
    text = os.fspath(name_or_path)
    if text.endswith(".toml") or "/" in text or os.sep in text:
        return Path(text)
    known = names()
    if text not in known:
        near = difflib.get_close_matches(text.lower(), known, n=3, cutoff=0.3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(
            f"no target is called {text!r}",
            expected=f"one of {', '.join(known)}, or the path of a .toml file of yours",
            next_step=f"{hint}edgekit targets shows what each one is",
        )
    return Path(str(files("edgekit.profiles") / f"{text}.toml"))


def load(name_or_path: str | os.PathLike[str]) -> Device:
    """A device by its name, or from a TOML file of the user's; ``InputError`` names file, line and key."""
    return _load(source(name_or_path), ())


def adjusted(name: str, overrides: Mapping[str, Any], project: Path) -> Device:
    """A device as a project file's ``[targets.NAME]`` has it: the named one, or what it ``extends``, with other figures.

    Paths in it are relative to the project file, which errors name with line and key.
    """
    at = tables.Place(project, _read(project), ("targets", name))
    data = dict(overrides)
    if "extends" not in data and name in names():
        data["extends"] = name
    return _device(name, data, at, ())


def _load(path: Path, seen: tuple[Path, ...]) -> Device:
    text = _read(path)
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, *MALFORMED) as error:
        raise InputError("not readable as TOML", path=path, found=str(error)) from error
    return _device(path.stem, data, tables.Place(path, text), (*seen, path))


def _read(path: Path) -> str:
    try:
        return read_bounded(path, LIMIT).decode()
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", path=path, found=str(error)) from error


def _device(name: str, data: dict[str, Any], at: tables.Place, seen: tuple[Path, ...]) -> Device:
    if not _NAME.fullmatch(name):
        raise InputError(
            "not a name for a target", path=at.path, found=name, expected="letters, digits, dot, dash"
        )
    if "name" in data:
        raise at.wrong("name", data["name"], "no such key: a target is called as its file or table is")
    own = {key: value for key, value in data.items() if key != "extends"}
    if "extends" in data:
        own = tables.merged(_below(data["extends"], at, seen), own)
    try:
        device = msgspec.convert({"name": name, **own}, Device)
    except msgspec.ValidationError as error:
        raise at.invalid(str(error), own, Device) from error
    _check(device, at)
    return device


def _below(base: object, at: tables.Place, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of what a file extends, which is sound by itself."""
    if not isinstance(base, str):
        raise at.wrong("extends", base, "a target's name, or the path of a .toml file")
    path = source(base)
    path = at.path.parent / path
    if path in seen or len(seen) >= DEPTH:
        raise at.wrong("extends", base, f"files that don't extend each other, {DEPTH} at most")
    keys: dict[str, Any] = msgspec.to_builtins(_load(path, seen))
    return {key: value for key, value in keys.items() if key != "name" and value is not None}


def _check(device: Device, at: tables.Place) -> None:
    """What no single key tells: figures without end, budgets above what is there, formats named twice."""
    gpu = device.gpu
    sizes: list[tuple[str, float | None]] = [
        (key, getattr(device, key)) for key in ("memory_gb", "budget_gb", "bandwidth_gb_s", "min_tps")
    ]
    if gpu:
        sizes += [("gpu.memory_gb", gpu.memory_gb), ("gpu.bandwidth_gb_s", gpu.bandwidth_gb_s)]
    for key, value in sizes:
        if value is not None and not (math.isfinite(value) and value < 1e6):
            raise at.wrong(key, value, "a number below a million")
    room, where = device.memory_gb, "memory_gb"
    if gpu and gpu.memory_gb:
        room, where = gpu.memory_gb, "gpu.memory_gb"
    if device.budget_gb > room:
        raise at.wrong("budget_gb", device.budget_gb, f"no more than {where}, {room:g}")
    if gpu and gpu.memory_gb and not gpu.bandwidth_gb_s:
        raise at.wrong("gpu.bandwidth_gb_s", None, "the bandwidth of the GPU's own memory")
    if len(set(device.formats)) != len(device.formats):
        raise at.wrong("formats", device.formats, "each format once")
    if (device.system == "browser") != (device.architecture == "wasm32"):
        raise at.wrong("architecture", device.architecture, "wasm32 in a browser, and nowhere else")
