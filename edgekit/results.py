"""What this machine's own benchmarks found, by processor and model: they correct predictions, and keep tuned threads.

One file in the user's cache; a file that can't be read counts as empty, one that can't be written loses a result.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edgekit.caches import recall, remember

if TYPE_CHECKING:
    from edgekit.profiles.choice import Artifact
    from edgekit.profiles.structs import Hardware

FILE: Final = "results.json"
LIMIT: Final = 200
"""Models whose results are kept; the oldest go first."""
LAST: Final = 5
"""Results of a model that are kept: a machine differs from itself by ten per cent and more within an hour."""


class Result(msgspec.Struct, frozen=True):
    """Decode and prompt tokens a second, measured and predicted, with so many threads and layers on GPUs."""

    threads: int
    n_gpu_layers: int
    decode_tps: float
    prompt_tps: float
    predicted_decode_tps: float | None
    predicted_prompt_tps: float | None
    tuned: bool = False
    """Whether these threads won against all others."""


def machine_key(hardware: Hardware) -> str:
    """What a result is good for: this processor with these limits, these GPUs, this llama.cpp."""
    cpu, runtime = hardware.cpu, hardware.runtime("llama.cpp")
    gpus = "+".join(gpu.name for gpu in hardware.gpus if gpu.device)
    version = runtime.version if runtime else None
    return f"{cpu.name}|{cpu.usable}|{cpu.quota}|{gpus}|llama.cpp {version}"


def model_key(artifact: Artifact) -> str:
    """Models of one shape and quantization run alike, whatever they were trained on."""
    shape = artifact.shape
    return f"{artifact.quantization}|{shape.layers}x{shape.width}|{shape.weight_bytes}"


def results(hardware: Hardware, artifact: Artifact) -> Result | None:
    """The last one of this model on this machine."""
    return next(reversed(_results(_read().get(machine_key(hardware), {}).get(model_key(artifact)))), None)


def kin(hardware: Hardware, artifact: Artifact) -> tuple[float, float] | None:
    """(decode, prompt) measured over predicted, of the model of the same quantization that is nearest in size: medians."""
    best: tuple[float, tuple[float, float]] | None = None
    for key, entry in _read().get(machine_key(hardware), {}).items():
        quantization, _, size = key.split("|") if key.count("|") == 2 else ("", "", "")
        decode = [
            one.decode_tps / one.predicted_decode_tps for one in _results(entry) if one.predicted_decode_tps
        ]
        prompt = [
            one.prompt_tps / one.predicted_prompt_tps for one in _results(entry) if one.predicted_prompt_tps
        ]
        if quantization != artifact.quantization or not decode or not prompt:
            continue
        ratio = int(size) / max(1, artifact.shape.weight_bytes)
        distance = max(ratio, 1 / ratio) if ratio else float("inf")
        found = median(decode), median(prompt)
        if distance <= 4 and (best is None or distance < best[0]):
            best = distance, found
    return best and best[1]


def keep(hardware: Hardware, artifact: Artifact, result: Result) -> bool:
    """Remember a result; False where the cache can't be written."""
    everything = _read()
    machine, model = machine_key(hardware), model_key(artifact)
    entries = dict(everything.get(machine, {}))
    earlier = _results(entries.pop(model, None))
    entries[model] = msgspec.to_builtins([*earlier, result][-LAST:])
    return remember(FILE, everything | {machine: dict(list(entries.items())[-LIMIT:])})


def _results(entry: Any) -> list[Result]:
    try:
        return [] if entry is None else msgspec.convert(entry, list[Result])
    except msgspec.ValidationError:
        return []


def _read() -> dict[str, dict[str, Any]]:
    kept = recall(FILE)
    if not isinstance(kept, dict):
        return {}
    return {machine: entries for machine, entries in kept.items() if isinstance(entries, dict)}
