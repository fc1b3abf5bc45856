"""vLLM: a GPTQ or AWQ folder, a script that serves it, and a request."""

from __future__ import annotations

from edgekit.export import Parcel
from edgekit.export.serving import write_server
from edgekit.packed_folder import PackedFolder, read_packed


def write(parcel: Parcel) -> tuple[list[str], list[str]]:
    """model/, serve.sh and request.json."""
    from edgekit.here import hardware

    manifest = parcel.opened.manifest
    parcel.place("model")
    cards = sum(gpu.api == "cuda" and not gpu.unified for gpu in hardware().gpus)
    size = parallel(read_packed(parcel.opened.artifact), cards)
    arguments = [
        "serve", "model", "--served-model-name", manifest.name, "--max-model-len", str(parcel.context),
        "--tensor-parallel-size", str(size),
    ]  # fmt: skip
    notes = ["vLLM was not run: the folder is checked by loading it with transformers"]
    if not cards:
        notes.append(
            "this machine has no CUDA card: on the server, --tensor-parallel-size N splits the model over N"
        )
    return write_server(parcel, "vllm", arguments, 8000), notes


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
