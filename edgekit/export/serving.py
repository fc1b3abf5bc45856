"""A script that starts a server on the export, and the request that its clients send."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from edgekit.bundle import write_json
from edgekit.export import Parcel
from edgekit.export.requests import REQUEST, openai

SCRIPT: Final = "serve.sh"


def write_server(parcel: Parcel, program: str, arguments: Sequence[str], port: int) -> list[str]:
    """serve.sh and request.json; the commands that start the server and ask it.

    The script passes its own options on; an environment variable (LLAMA_SERVER, VLLM) names another program.
    """
    manifest, variable = parcel.opened.manifest, program.upper().replace("-", "_")
    script = parcel.folder / SCRIPT
    script.write_text(
        f"#!/bin/sh\n# {manifest.name} {manifest.version}, {manifest.quantization}. Options after it go to {program} too.\n"
        f'cd "$(dirname "$0")" && exec "${{{variable}:-{program}}}" {shlex.join([*arguments, "--port", str(port)])} "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    write_json(parcel.folder / REQUEST, openai(manifest, manifest.name))
    place = shlex.quote(str(parcel.final))
    return [
        f"sh {place}/{SCRIPT}",
        f"curl http://localhost:{port}/v1/chat/completions -H 'Content-Type: application/json' -d @{place}/{REQUEST}",
    ]
