"""llama.cpp's server: a script that starts it, and a request. It runs the chat template in the GGUF file itself."""

from __future__ import annotations

import shlex

from edgekit.bundle import write_json
from edgekit.export import Parcel
from edgekit.export.requests import REQUEST, openai

SCRIPT = "serve.sh"
PORT = 8080


def write(parcel: Parcel) -> tuple[list[str], list[str]]:
    """The model, serve.sh and request.json."""
    manifest, name = parcel.opened.manifest, parcel.opened.artifact.name
    parcel.place(".")
    options = [
        "--model", name, "--alias", manifest.name, "--ctx-size", str(parcel.context), "--parallel", "1",
        "--port", str(PORT), "--jinja",
    ]  # fmt: skip
    if manifest.output_schema is not None:
        options += ["--temp", "0"]
    script = parcel.folder / SCRIPT
    script.write_text(
        f"#!/bin/sh\n# {manifest.name} {manifest.version}, {manifest.quantization}. Options after it go to llama-server too.\n"
        f'cd "$(dirname "$0")" && exec "${{LLAMA_SERVER:-llama-server}}" {shlex.join(options)} "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    write_json(parcel.folder / REQUEST, openai(manifest, manifest.name))
    place = shlex.quote(str(parcel.final))
    notes = []
    if manifest.system:
        notes.append("the bundle's system prompt goes along in request.json: llama-server keeps none itself")
    return [
        f"sh {place}/{SCRIPT}",
        f"curl http://localhost:{PORT}/v1/chat/completions -H 'Content-Type: application/json' -d @{place}/{REQUEST}",
    ], notes
