"""edgekit.toml: what to build, so that a person and a CI job build the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.budget import AUTO, Budget, parse_bytes
from edgekit.errors import InputError
from edgekit.files import MALFORMED, read_bounded, read_json, read_text, real
from edgekit.forms import Form
from edgekit.gptq_settings import GptqSettings
from edgekit.onnx_settings import OnnxSettings
from edgekit.targets import split_gates
from edgekit.trial import Trial

if TYPE_CHECKING:
    from edgekit.profiles.devices import Device

FILE = "edgekit.toml"
DEFAULT_QUANTIZATIONS = ("Q4_K_M",)
DEFAULT_PRECISIONS = ("INT4",)
"""Where the format is another than GGUF."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def usual(form: Form) -> tuple[str, ...]:
    """What is built of a format where nothing is named."""
    return DEFAULT_QUANTIZATIONS if form == "gguf" else DEFAULT_PRECISIONS


@dataclass(frozen=True)
class BuildSpec:
    """Everything that decides a build's bytes, and where it goes."""

    base: Path
    out: Path
    name: str
    adapters: tuple[tuple[Path, float], ...] = ()
    quantizations: tuple[str, ...] = DEFAULT_QUANTIZATIONS
    """One bundle for each; may be empty where there are ``devices``."""
    version: str = "0.1.0"
    counter: int = 1
    tensor_types: tuple[str, ...] = ()
    imatrix: Path | None = None
    calibration: Path | None = None
    """Data to compute an importance matrix on, or such a matrix as GGUF."""
    llama_cpp: Path | None = None
    split_size: int | None = None
    allow_nonfinite: bool = False
    prompt: str | None = None
    system: str | None = None
    output_schema: Mapping[str, Any] | None = field(default=None, hash=False)
    licence: str | None = None
    threads: int | None = None
    force: bool = False
    devices: tuple[Device, ...] = field(default=(), hash=False)
    """One bundle for each, in the quantization that a plan finds for it."""
    budget: Budget | None = None
    """What the quantization AUTO may spend."""
    recipe: Path | None = None
    """The types that AUTO is to give, found before."""
    refine: bool = False
    """Round with error feedback where that loses less on the calibration data."""
    trial: Trial = field(default_factory=Trial)
    """What the bundles are measured on, and must pass to be published."""
    intended_use: str | None = None
    """What the result is meant for, in the words of who publishes it."""
    format: Form = "gguf"
    onnx: OnnxSettings = field(default_factory=OnnxSettings)
    """How, where the format is ONNX."""
    gptq: GptqSettings = field(default_factory=GptqSettings)
    """How, where the format is GPTQ or AWQ."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise InputError(
                "not a name for a bundle", found=self.name, expected="letters, digits, dot, dash"
            )
        for _, weight in self.adapters:
            _check_weight(weight)
        if self.prompt is not None and "{text}" not in self.prompt:
            raise InputError(
                "the prompt template has no place for the input",
                found=self.prompt[:80],
                expected="{text} in it",
            )
        if not self.quantizations and not self.devices:
            raise InputError("no quantization was named", expected="at least one, such as Q4_K_M")
        if self.imatrix is not None and self.calibration is not None:
            raise InputError(
                "an importance matrix is given twice", found="imatrix and calibration", expected="one of them"
            )
        if self.threads is not None and self.threads < 1:
            raise InputError("a build needs a thread", found=self.threads, expected="at least 1")

    @property
    def has_auto(self) -> bool:
        """Whether a quantization's types are chosen tensor by tensor."""
        return AUTO in (name.upper() for name in self.quantizations)


class _AdapterEntry(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    weight: float = 1.0


class _Prompt(msgspec.Struct, forbid_unknown_fields=True):
    template: str | None = None
    file: str | None = None
    system: str | None = None
    schema: str | None = None


class _Auto(msgspec.Struct, forbid_unknown_fields=True):
    bpw: float | None = None
    max_size: str | None = None
    max_kld: float | None = None

    def budget(self) -> Budget:
        size = None if self.max_size is None else parse_bytes(self.max_size)
        return Budget(self.bpw, size, self.max_kld)


class _Evaluation(msgspec.Struct, forbid_unknown_fields=True):
    task: str | None = None
    text: str | None = None
    gates: tuple[str, ...] = ()
    chunks: int | None = None
    ctx: int | None = None
    reference_type: str = "F16"


class _Project(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    base: str
    version: str = "0.1.0"
    counter: int = 1
    out: str = "dist"
    quantizations: tuple[str, ...] | None = None
    imatrix: str | None = None
    calibration: str | None = None
    auto: _Auto | None = None
    recipe: str | None = None
    refine: bool = False
    llama_cpp: str | None = None
    split_size: str | None = None
    allow_nonfinite: bool = False
    licence: str | None = None
    intended_use: str | None = None
    format: Form = "gguf"
    onnx: OnnxSettings = msgspec.field(default_factory=OnnxSettings)
    gptq: GptqSettings = msgspec.field(default_factory=GptqSettings)
    adapters: list[_AdapterEntry] = []
    prompt: _Prompt = msgspec.field(default_factory=_Prompt)
    evaluation: _Evaluation = msgspec.field(default_factory=_Evaluation)
    tensor_types: dict[str, str] = {}
    targets: dict[str, dict[str, Any]] = {}


def read_project(
    path: Path, *, force: bool = False, threads: int | None = None, targets: Sequence[str] = ()
) -> BuildSpec:
    """Decode a project file; paths in it are relative to it. ``InputError`` names the key that is wrong.

    ``targets``: build for these devices only, as the project's tables change them, and none of its quantizations.
    """
    project = _decoded(path)
    folder, prompt = path.parent, project.prompt
    tables, gates = split_gates(project.targets, path)
    devices = _devices(path, tables, targets)
    wanted = () if targets else project.quantizations
    if wanted is None:
        wanted = () if devices else usual(project.format)
    return BuildSpec(
        base=folder / project.base,
        out=folder / project.out,
        name=project.name,
        adapters=tuple((folder / entry.path, entry.weight) for entry in project.adapters),
        quantizations=wanted,
        version=project.version,
        counter=project.counter,
        tensor_types=tuple(f"{pattern}={kind}" for pattern, kind in project.tensor_types.items()),
        imatrix=folder / project.imatrix if project.imatrix else None,
        calibration=folder / project.calibration if project.calibration else None,
        budget=project.auto.budget() if project.auto else None,
        recipe=folder / project.recipe if project.recipe else None,
        refine=project.refine,
        llama_cpp=folder / project.llama_cpp if project.llama_cpp else None,
        split_size=parse_size(project.split_size) if project.split_size else None,
        allow_nonfinite=project.allow_nonfinite,
        prompt=read_prompt(folder / prompt.file) if prompt.file else prompt.template,
        system=prompt.system,
        output_schema=read_json(folder / prompt.schema, limit=1 << 16) if prompt.schema else None,
        licence=project.licence,
        threads=threads,
        force=force,
        devices=devices,
        trial=_trial(folder, project.evaluation, gates),
        intended_use=project.intended_use,
        format=project.format,
        onnx=project.onnx,
        gptq=project.gptq,
    )


def _decoded(path: Path) -> _Project:
    try:
        project = msgspec.toml.decode(read_bounded(path, limit=1 << 20), type=_Project)
    except MALFORMED as error:
        raise InputError(
            "can't read the project file",
            path=path,
            found=str(error),
            next_step="edgekit init shows every key",
        ) from error
    if project.prompt.template and project.prompt.file:
        raise InputError(
            "the prompt is given twice", path=path, found="template and file", expected="one of them"
        )
    return project


def _trial(folder: Path, its: _Evaluation, gates: Mapping[str, tuple[str, ...]]) -> Trial:
    return Trial(
        task=folder / its.task if its.task else None,
        text=folder / its.text if its.text else None,
        gates=its.gates,
        target_gates=tuple(gates.items()),
        chunks=its.chunks,
        ctx=its.ctx,
        reference_type=its.reference_type,
    )


def _devices(
    path: Path, tables: Mapping[str, Mapping[str, Any]], targets: Sequence[str]
) -> tuple[Device, ...]:
    if not (targets or tables):
        return ()
    from edgekit.targets import resolve

    return tuple(resolve(targets, tables, path))


def name_of(base: Path, adapters: Sequence[tuple[Path, float]]) -> str:
    """What a build is called that wasn't given a name: as the first adapter, or the base."""
    named = real(adapters[0][0] if adapters else base)
    return named.stem if named.is_file() else named.name


def read_prompt(path: Path) -> str:
    """A prompt template file, without the line end that editors put at its end."""
    return read_text(path).rstrip("\n")


def parse_size(text: str) -> int:
    """Bytes from ``2G``, ``500M`` or ``64K``: powers of 1000, as llama.cpp's gguf-split counts."""
    found = re.fullmatch(r"(\d{1,6})([KMG])", text.strip().upper())
    if not found or not int(found[1]):
        raise InputError("can't read the split size", found=text, expected="a size such as 2G or 500M")
    return int(found[1]) * (1000, 1000**2, 1000**3)["KMG".index(found[2])]


def parse_adapter(text: str) -> tuple[Path, float]:
    """``DIR`` or ``DIR:WEIGHT``."""
    folder, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), 1.0
    try:
        value = float(weight)
    except ValueError:
        return Path(text), 1.0
    _check_weight(value)
    return Path(folder), value


def _check_weight(weight: float) -> None:
    if not -1e6 < weight < 1e6:
        raise InputError("an adapter's weight is out of range", found=weight, expected="a number such as 0.5")
