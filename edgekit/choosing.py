"""The settings that a model is opened with on this machine: the picker, asked with what is known of both."""

from __future__ import annotations

import os
import warnings
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import BundleError, HardwareError, InputError, RuntimeUnavailableError
from edgekit.forms import files_of, is_gguf, is_onnx

if TYPE_CHECKING:
    from edgekit.intended import Intended
    from edgekit.profiles.choice import Artifact, Preferences, RuntimeChoice
    from edgekit.profiles.structs import Hardware
    from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions


def artifact_of(path: Path) -> Artifact:
    """A .gguf, .onnx or packed .safetensors file as the picker looks at it; ``InputError`` or ``BundleError`` for an unsound one."""
    from edgekit.gguf_shards import read_shards
    from edgekit.profiles.choice import Artifact
    from edgekit.profiles.gguf_shape import shape_of

    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise InputError(
            "there is no model here", path=path, found=found, expected="a .gguf or .onnx file, or a bundle"
        )
    if not is_gguf(path):
        return _artifact(path)
    parts = read_shards(path)
    kind = parts[0][1].keys.get("general.file_type")
    return Artifact(str(path), "gguf", _quantization(kind), shape_of(parts))


def _artifact(place: Path) -> Artifact:
    """A file of a folder format as the picker looks at it."""
    from edgekit.profiles.choice import Artifact

    if not is_onnx(place):
        from edgekit.packed_folder import read_packed
        from edgekit.profiles.packed_shape import packed_shape

        found = read_packed(place)
        return Artifact(str(place), found.method, f"INT{found.bits}", packed_shape(found))
    from edgekit.genai_config import read_config
    from edgekit.onnx_header import read_tensors
    from edgekit.profiles.onnx_shape import onnx_shape, precision

    config, tensors = read_config(place.parent), read_tensors(place)
    nbytes = sum(file.stat().st_size for file in files_of(place))
    return Artifact(str(place), "onnx", precision(tensors), onnx_shape(config, tensors, nbytes))


def _quantization(kind: Any) -> str:
    from gguf import LlamaFileType

    try:
        return str(LlamaFileType(kind).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return "unknown"


def choose(
    path: str | os.PathLike[str], hardware: Hardware, preferences: Preferences | None = None
) -> list[RuntimeChoice]:
    """All ways to run a bundle's folder or a .gguf file on a machine, best first, corrected by its own results."""
    return choose_among([find(Path(path))], hardware, preferences)


def find(path: Path) -> Artifact:
    """The artifact of a bundle's folder, or a .gguf file itself."""
    from edgekit.bundle import Bundle

    return artifact_of(Bundle.open(path).artifact if path.is_dir() else path)


def uncorrected(
    artifacts: list[Artifact], hardware: Hardware, preferences: Preferences
) -> list[RuntimeChoice]:
    """The same without what this machine measured earlier."""
    from edgekit.profiles.pick import pick

    return pick(hardware, artifacts, preferences)


def choose_among(
    artifacts: list[Artifact], hardware: Hardware, preferences: Preferences | None = None
) -> list[RuntimeChoice]:
    """The same for artifacts whose shapes are known."""
    from edgekit import results
    from edgekit.profiles.choice import Preferences
    from edgekit.profiles.pick import pick

    wishes = preferences or Preferences()
    if len(artifacts) == 1:
        own = results.results(hardware, artifacts[0])
        ratios = results.kin(hardware, artifacts[0])
        if not wishes.tuned_threads and own is not None and own.tuned:
            wishes = replace(wishes, tuned_threads=own.threads)
        if ratios:
            wishes = replace(wishes, measured=ratios[0], measured_prompt=ratios[1])
    return pick(hardware, artifacts, wishes)


def best(choices: list[RuntimeChoice], hardware: Hardware, path: str | os.PathLike[str]) -> RuntimeChoice:
    """The first choice, refused only where it can't run at all; where it is merely short of room it is warned about.

    Raises ``RuntimeUnavailableError`` with what to install, or ``HardwareError`` with what every choice lacks.
    """
    first = choices[0]
    if first.rejected is None:
        return first
    if missing := next((one for one in choices if one.install is not None), None):
        raise RuntimeUnavailableError(missing.rejected or "", path=path, next_step=missing.install)
    fallback = choices[-1] if choices[-1].device == "CPU" else first
    most = hardware.memory.limit or hardware.memory.total
    if most is not None and fallback.memory.total > most:
        raise HardwareError(
            "this model doesn't fit this machine",
            path=path,
            found="; ".join(f"{one.device}: {one.rejected}" for one in choices),
            next_step="ask for a smaller n_ctx or kv_type='q8_0', or build a smaller quantization",
        )
    warnings.warn(f"{path}: {fallback.rejected}; it may be slow, or be ended", RuntimeWarning, stacklevel=3)
    return fallback


def open_engine(
    path: Path,
    artifact: AbstractContextManager[Path],
    options: LlamaCppOptions,
    meant: Intended | None = None,
) -> tuple[LlamaCppEngine, LlamaCppOptions, RuntimeChoice]:
    """Open a model with what the options say, and what they leave open as picked for this machine.

    ``artifact`` leads to the file of ``path`` that is opened; ``meant``: the device that it was built for, from which
    another machine is told by a warning. The options come back with every choice in them.
    """
    from edgekit.here import hardware
    from edgekit.profiles.choice import Preferences
    from edgekit.profiles.suited import unsuited

    wishes = Preferences(
        context=options.n_ctx,
        places=options.n_kv,
        sequences=options.n_seq_max,
        kv_type=options.kv_type,
        threads=options.threads,
        batch_threads=options.batch_threads,
        n_gpu_layers=options.n_gpu_layers,
    )
    machine = hardware()
    choice = best(choose_among([find(path)], machine, wishes), machine, path)
    if meant is not None and (why := unsuited(meant, machine, choice.decode_tps)):
        warnings.warn(f"{path}: {why}", RuntimeWarning, stacklevel=3)
    with artifact as place:
        engine, options = _open(place, options, choice)
    return engine, options, choice


def _open(
    place: Path, options: LlamaCppOptions, choice: RuntimeChoice
) -> tuple[LlamaCppEngine, LlamaCppOptions]:
    """On the CPU where a GPU that was picked is gone, or has filled up, since it was asked."""
    from edgekit.runtimes.llamacpp import LlamaCppEngine

    forced = options.n_gpu_layers is not None
    options = replace(
        options,
        threads=choice.threads,
        batch_threads=choice.batch_threads,
        n_gpu_layers=options.n_gpu_layers if forced else choice.n_gpu_layers,
    )
    try:
        return LlamaCppEngine(place, options), options
    except (BundleError, HardwareError) as error:
        if forced or not choice.n_gpu_layers:
            raise
        plain = replace(options, n_gpu_layers=0)
        engine = LlamaCppEngine(place, plain)  # what is wrong with the file itself is raised here, too
        warnings.warn(
            f"{choice.device} can't be used any more, the CPU is: {error.what}", RuntimeWarning, stacklevel=4
        )
        return engine, plain


def document(choice: RuntimeChoice) -> dict[str, Any]:
    """A choice as plain values, for JSON."""
    need = choice.memory
    return {
        "runtime": choice.runtime,
        "artifact": choice.artifact.path,
        "format": choice.artifact.format,
        "quantization": choice.artifact.quantization,
        "device": choice.device,
        "n_gpu_layers": choice.n_gpu_layers,
        "threads": choice.threads,
        "batch_threads": choice.batch_threads,
        "batch": choice.batch,
        "context": choice.context,
        "kv_type": choice.kv_type,
        "memory_bytes": {
            "weights": need.weights,
            "kv_cache": need.kv_cache,
            "compute": need.compute,
            "overhead": need.overhead,
            "total": need.total,
            "copies": need.copies,
        },
        "gpu_bytes": choice.gpu_bytes,
        "prompt_tps": choice.prompt_tps,
        "decode_tps": choice.decode_tps,
        "reasons": list(choice.reasons),
        "overridden": list(choice.overridden),
        "rejected": choice.rejected,
        "install": choice.install,
    }
