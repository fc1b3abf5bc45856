"""llama.cpp's server: a script that starts it, and a request. It runs the chat template in the GGUF file itself."""

from __future__ import annotations

from edgekit.export import Parcel
from edgekit.export.serving import write_server


def write(parcel: Parcel) -> tuple[list[str], list[str]]:
    """The model, serve.sh and request.json."""
    manifest, name = parcel.opened.manifest, parcel.opened.artifact.name
    parcel.place(".")
    arguments = [
        "--model", name, "--alias", manifest.name, "--ctx-size", str(parcel.context), "--parallel", "1", "--jinja",
    ]  # fmt: skip
    if manifest.output_schema is not None:
        arguments += ["--temp", "0"]
    notes = []
    if manifest.system:
        notes.append("the bundle's system prompt goes along in request.json: llama-server keeps none itself")
    return write_server(parcel, "llama-server", arguments, 8080), notes
