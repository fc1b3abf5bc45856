"""vLLM: a GPTQ or AWQ folder, a script that serves it, and a request."""

from __future__ import annotations

import shlex
from typing import Final

from edgekit.bundle import write_json
from edgekit.export import Parcel
from edgekit.export.requests import REQUEST, openai
from edgekit.packed_folder import PackedFolder, read_packed

SCRIPT: Final = "serve.sh"
PORT: Final = 8000


def write(parcel: Parcel) -> tuple[list[str], list[str]]:
    """model/, serve.sh and request.json."""
    from edgekit.here import hardware

    manifest = parcel.opened.manifest
    parcel.place("model")
    cards = sum(gpu.api == "cuda" and not gpu.unified for gpu in hardware().gpus)
    size = parallel(read_packed(parcel.opened.artifact), cards)
    options = [
        "serve", "model", "--served-model-name", manifest.name, "--max-model-len", str(parcel.context),
        "--tensor-parallel-size", str(size), "--port", str(PORT),
    ]  # fmt: skip
    script = parcel.folder / SCRIPT
    script.write_text(
        f"#!/bin/sh\n# {manifest.name} {manifest.version}, {manifest.quantization}. Options after it go to vLLM too.\n"
        f'cd "$(dirname "$0")" && exec "${{VLLM:-vllm}}" {shlex.join(options)} "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    write_json(parcel.folder / REQUEST, openai(manifest, manifest.name))
    place = shlex.quote(str(parcel.final))
    notes = ["vLLM was not run: the folder is checked by loading it with transformers"]
    if not cards:
        notes.append(
            "this machine has no CUDA card: on the server, --tensor-parallel-size N splits the model over N"
        )
    return [
        f"sh {place}/{SCRIPT}",
        f"curl http://localhost:{PORT}/v1/chat/completions -H 'Content-Type: application/json' -d @{place}/{REQUEST}",
    ], notes


def parallel(model: PackedFolder, cards: int) -> int:
    """The most cards that heads and groups of scales can be dealt out to evenly; a power of two, as vLLM likes it."""
    config = model.config
    heads = config["num_attention_heads"]
    kept = config.get("num_key_value_heads") or heads
    group = max(model.group_size, 1)

    def fits(size: int) -> bool:
        even = heads % size == 0 and (kept % size == 0 or size % kept == 0)
        return even and all(
            config[name] % (size * group) == 0 for name in ("hidden_size", "intermediate_size")
        )

    return max(size for size in (1, 2, 4, 8, 16) if size == 1 or (size <= cards and fits(size)))
