"""LM Studio: the folders that it looks through, a preset with system prompt and schema, and a request for its server."""

from __future__ import annotations

import re
import shlex
from typing import Any

from edgekit.bundle import Manifest, model_files, write_json
from edgekit.export import Parcel
from edgekit.export.requests import REQUEST, openai

PUBLISHER = "edgekit"


def write(parcel: Parcel) -> tuple[list[str], list[str]]:
    """models/PUBLISHER/NAME with the model, config-presets with the preset, and request.json."""
    manifest = parcel.opened.manifest
    name = f"{re.sub(r'[^A-Za-z0-9._-]', '-', manifest.name)}-{manifest.quantization}"
    folder = f"models/{PUBLISHER}/{name}"
    parcel.place(folder)
    if len(model_files(manifest)) == 1:  # parts are found by their names
        (parcel.folder / folder / parcel.opened.artifact.name).rename(parcel.folder / folder / f"{name}.gguf")
    presets = parcel.folder / "config-presets"
    presets.mkdir()
    write_json(presets / f"{name}.preset.json", _preset(manifest, name, parcel.context))
    write_json(parcel.folder / REQUEST, openai(manifest, name.lower()))
    place = shlex.quote(str(parcel.final))
    return [
        f"cp -r {place}/models {place}/config-presets ~/.lmstudio/",
        f"curl http://localhost:1234/v1/chat/completions -H 'Content-Type: application/json' -d @{place}/{REQUEST}",
    ], ["the layout and the preset follow LM Studio's documentation; LM Studio itself was not run"]


def _preset(manifest: Manifest, name: str, context: int) -> dict[str, Any]:
    fields: list[dict[str, Any]] = []
    if manifest.system:
        fields.append({"key": "llm.prediction.systemPrompt", "value": manifest.system})
    if manifest.output_schema is not None:
        schema = {"type": "json", "jsonSchema": dict(manifest.output_schema)}
        fields += [
            {"key": "llm.prediction.temperature", "value": 0},
            {"key": "llm.prediction.structured", "value": schema},
        ]
    load = [{"key": "llm.load.contextLength", "value": context}]
    return {
        "identifier": f"@local:{name.lower()}", "name": name, "changed": False,
        "operation": {"fields": fields}, "load": {"fields": load},
    }  # fmt: skip
