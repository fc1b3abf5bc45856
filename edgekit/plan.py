"""``edgekit plan``: what would be built for each target, known before a weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from edgekit import importance
from edgekit.errors import HardwareError, InputError
from edgekit.forms import Form
from edgekit.gguf_header import NUMBERS, GgufArray, GgufTensor
from edgekit.opening import Opened, opened
from edgekit.progress import Progress
from edgekit.project import BuildSpec

if TYPE_CHECKING:
    from edgekit.converters.gguf import plan as gguf
    from edgekit.profiles.choice import Artifact
    from edgekit.profiles.devices import Device
    from edgekit.profiles.planning import Candidate, Row

WORDS_BYTES: Final = 40
"""Bytes of a file for a token of a vocabulary that isn't there yet: 23 of SentencePiece's, 35 to 61 of byte-level BPE's."""


@dataclass(frozen=True)
class Candidates:
    """What could be built of a model, for any target."""

    every: Sequence[Candidate]
    exact: bool
    """Whether sizes are exact to the byte; not where the tokenizer is missing, and of no format but GGUF."""
    notes: Sequence[str]
    form: Form = "gguf"


@dataclass(frozen=True)
class Planned:
    """A device's rows, and why none of them is chosen, if none is."""

    device: Device
    rows: Sequence[Row]
    problem: HardwareError | None
    notes: Sequence[str]


def plan(spec: BuildSpec, devices: Sequence[Device]) -> tuple[Candidates, list[Planned]]:
    """Rows for every device; the errors of ``edgekit.errors`` for what can't be opened or isn't converted."""
    found = candidates(spec)
    return found, [for_device(found, device) for device in devices]


def for_device(found: Candidates, device: Device) -> Planned:
    """One device's rows."""
    from edgekit.profiles import planning, shortfall

    _check_names(device)
    notes = []
    form = "gptq" if found.form == "awq" else found.form  # what runs one runs the other
    if form not in device.formats:
        raise InputError(
            f"the target {device.name} takes {' or '.join(device.formats)}", found=f"format {found.form}",
            expected=f"--format {device.formats[0]}",
        )  # fmt: skip
    if better := device.formats[: device.formats.index(form)]:
        notes.append(f"it prefers {' and '.join(better)}: --format {better[0]}")
    rows = planning.plan(device, found.every)
    problem = None if planning.choose(rows) else shortfall.error(device, rows, found.every)
    return Planned(device, rows, problem, notes)


def joined(problems: Sequence[HardwareError]) -> HardwareError:
    """One error for several targets."""
    if len(problems) == 1:
        return problems[0]
    inset = "\n    "
    return HardwareError(
        f"{len(problems)} targets get nothing",
        found="".join(f"{inset}{one.what}: {one.found}" for one in problems),
        next_step="".join(f"{inset}{one.what}: {one.next_step}" for one in problems),
    )


def candidates(spec: BuildSpec) -> Candidates:
    """Every quantization of a base with its adapters, from configs and headers alone."""
    from edgekit.profiles.planning import Candidate

    if spec.format != "gguf":
        return _foreseen(spec)
    if spec.calibration is not None and importance.is_matrix(spec.calibration):
        spec = replace(spec, imatrix=spec.calibration, calibration=None)
    with opened(spec, Progress(), planning=True) as inputs:
        notes, found = list(inputs.notes), []
        missing = _missing_words(inputs)
        if missing:
            notes.append(
                f"no tokenizer here: sizes leave {missing / 1e6:.1f} MB for one, and are exact once it is there"
            )
        for one in plans(inputs, spec, notes):
            found.append(Candidate(artifact(one, missing), barred(inputs, one)))
        return Candidates(found, not missing, notes)


def _foreseen(spec: BuildSpec) -> Candidates:
    """What a format that is made from a checkpoint comes to: computed, for its converter isn't asked."""
    from edgekit.converters.gguf import plan, presets
    from edgekit.gptq_settings import BITS
    from edgekit.onnx_settings import BUILDABLE
    from edgekit.profiles import foreseen_shape
    from edgekit.profiles.choice import Artifact
    from edgekit.profiles.planning import Candidate

    if spec.base.is_file():
        raise InputError(
            f"{spec.format.upper()} is built from a checkpoint",
            path=spec.base,
            found="a file",
            expected="its folder",
        )
    with opened(spec, Progress(), planning=True) as inputs:
        plain = plan.plan(inputs.layout, presets.PRESETS["F32"], [], None, None, unchecked=True)
        shape = artifact(plain).shape
        notes = [*inputs.notes, f"sizes of {spec.format.upper()} are computed, within some per cent"]
        config = inputs.base.config
        heads = config.get("num_attention_heads")
        rotations = 4 * shape.trained * (config.get("head_dim") or (shape.width // heads if heads else 0))
    words = _words_bytes(spec, shape.n_vocab)
    found = []
    for name in BUILDABLE[spec.onnx.provider] if spec.format == "onnx" else BITS[spec.format]:
        if spec.format == "onnx":
            offsets = not spec.onnx.symmetric
            made = foreseen_shape.onnx(shape, name, spec.onnx.block_size, words + rotations, offsets=offsets)
        else:
            made = foreseen_shape.packed(shape, name, spec.gptq.group_size, words)
        found.append(Candidate(Artifact("", spec.format, name, made)))
    return Candidates(found, False, notes, spec.format)


def _words_bytes(spec: BuildSpec, n_vocab: int) -> int:
    """Bytes of the tokenizer that lies beside the weights."""
    path = spec.base / "tokenizer.json"
    return path.stat().st_size if path.is_file() else 2 * WORDS_BYTES * n_vocab


def plans(inputs: Opened, spec: BuildSpec, notes: list[str]) -> Iterator[gguf.Plan]:
    """A plan for each preset; those whose blocks the model's rows don't divide by are left out, and noted."""
    from edgekit.converters.gguf import imatrix, plan, presets

    overrides = [presets.Override.parse(text) for text in spec.tensor_types]
    matrix = imatrix.read(spec.imatrix) if spec.imatrix else importance.foreseen(spec, inputs.layout)
    for name, preset in presets.PRESETS.items():
        try:
            one = plan.plan(inputs.layout, preset, overrides, matrix, spec.split_size, unchecked=True)
        except InputError as error:
            if "don't divide" not in error.what:
                raise
            notes.append(f"{name} is left out: {error.what}")
            continue
        yield one


def barred(inputs: Opened, one: gguf.Plan) -> str | None:
    """Why a plan can't be carried out, or isn't worth it."""
    origin = inputs.layout.origin
    if one.lacking:
        return "needs an importance matrix (--imatrix)"
    if origin and one.data_bytes > origin.data_bytes:
        return f"larger than the {origin.data_bytes / 1e9:.2f} GB that it would be made of, and no better"
    return None


def artifact(one: gguf.Plan, missing: int = 0) -> Artifact:
    """A GGUF plan as the picker looks at a file; ``missing`` bytes of a vocabulary will come to it."""
    from edgekit.profiles.choice import Artifact
    from edgekit.profiles.gguf_shape import shape

    origin = one.layout.origin
    keys = origin.header.keys if origin else {entry.key: _kept(entry.value) for entry in one.entries}
    tensors = [
        GgufTensor(t.mapped.name, t.mapped.shape[::-1], t.kind.name, t.offset, t.nbytes) for t in one.tensors
    ]
    return Artifact("", "gguf", one.preset.name, shape(keys, tensors, one.file_bytes + missing))


def _kept(value: Any) -> Any:
    """A key's value as it is read back from a file."""
    return GgufArray(len(value), list(value[:NUMBERS])) if isinstance(value, list | tuple) else value


def _check_names(device: Device) -> None:
    from edgekit.converters.gguf import presets

    for name in device.quantizations:
        if presets.preset(name).name != name:
            raise InputError(
                f"target {device.name}: not a quantization's name",
                found=name,
                expected=presets.preset(name).name,
            )


def _missing_words(inputs: Opened) -> int:
    """Bytes that a vocabulary will take which isn't there."""
    layout = inputs.layout
    if layout.vocabulary or layout.origin:
        return 0
    return WORDS_BYTES * next(one.shape[0] for one in layout.tensors if one.name == "token_embd.weight")
