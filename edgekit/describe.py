"""What is inside a bundle, a GGUF file, a checkpoint or an adapter: facts for `edgekit inspect`, never guesses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edgekit.bundle import MANIFEST, Bundle
from edgekit.confidence_map import load_confidence
from edgekit.errors import InputError
from edgekit.genai_config import read_config
from edgekit.gguf_header import GgufArray, GgufTensor
from edgekit.gguf_shards import read_shards
from edgekit.onnx_header import places, read_tensors
from edgekit.packed_folder import read_packed
from edgekit.safetensors_file import ITEM_BYTES

if TYPE_CHECKING:
    from edgekit.converters.adapter import Adapter
    from edgekit.converters.adapter_parts import Pair


def kind_of(path: Path) -> str:
    """bundle, gguf, onnx, adapter or checkpoint; ``InputError`` for anything else."""
    if path.is_file():
        return "onnx" if path.suffix == ".onnx" else "gguf"
    if not path.is_dir():
        raise InputError("nothing is here", path=path, expected="a bundle, GGUF file, checkpoint or adapter")
    for name, kind in (
        (MANIFEST, "bundle"),
        ("adapter_config.json", "adapter"),
        ("config.json", "checkpoint"),
    ):
        if (path / name).exists():
            return kind
    raise InputError(
        "neither a bundle, a checkpoint nor an adapter",
        path=path,
        expected=f"{MANIFEST}, config.json or adapter_config.json in it",
    )


def describe_bundle(path: Path) -> dict[str, Any]:
    """Manifest in short, and what its artifact holds."""
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    return {
        "kind": "bundle",
        "name": manifest.name,
        "version": manifest.version,
        "counter": manifest.counter,
        "format": manifest.format,
        "quantization": manifest.quantization,
        "target": manifest.target.name if manifest.target else None,
        "files": {file.path: file.size for file in manifest.files},
        "base": manifest.provenance.base.name,
        "adapters": [
            f"{a.name} × {1.0 if a.weight is None else a.weight:g}" for a in manifest.provenance.adapters
        ],
        "licence": manifest.provenance.licence,
        "tools": manifest.provenance.tools,
        "memory": manifest.requirements.memory,
        "prompt": manifest.prompt,
        "output_schema": manifest.output_schema,
        "confidence": _confidence(bundle),
        "allocation": _allocation(bundle),
        "settings": manifest.settings,
        "artifact": _ARTIFACTS[manifest.format](bundle.artifact),
    }


def _confidence(bundle: Bundle) -> dict[str, Any] | None:
    """How the bundle's confidence was calibrated; ``BundleError`` if the map isn't fit to be used."""
    load_confidence(bundle)
    figures = bundle.manifest.confidence
    return None if figures is None else dict(msgspec.to_builtins(figures))


def _allocation(bundle: Bundle) -> dict[str, Any] | None:
    """How a budget of bits was spent, if the types were chosen."""
    found = bundle.manifest.allocation
    return None if found is None else dict(msgspec.to_builtins(found))


def describe_gguf(path: Path) -> dict[str, Any]:
    """Keys and tensor types of a GGUF model, from its checked header, or headers where it is in several files."""
    parts = read_shards(path)
    tensors = [tensor for _, header in parts for tensor in header.tensors]
    by_type: Counter[str] = Counter()
    for tensor in tensors:
        by_type[tensor.kind] += tensor.nbytes
    return {
        "kind": "gguf",
        "size": sum(part.stat().st_size for part, _ in parts),
        "tensors": len(tensors),
        "bytes_by_type": dict(by_type.most_common()),
        "keys": {key: _shown(value) for key, value in parts[0][1].keys.items()},
        "bits_per_weight": round(_bits(tensors), 2),
        "types": {tensor.name: tensor.kind for tensor in tensors if len(tensor.dimensions) > 1},
    }


def describe_onnx(path: Path) -> dict[str, Any]:
    """What an ONNX model's graph and configuration say, both checked."""
    config, tensors = read_config(path.parent), read_tensors(path)
    decoder = config.model.decoder
    by_type: Counter[str] = Counter()
    for tensor in tensors:
        by_type[tensor.type_name] += tensor.nbytes
    return {
        "kind": "onnx",
        "size": path.stat().st_size + sum((path.parent / name).stat().st_size for name in places(tensors)),
        "tensors": len(tensors),
        "bytes_by_type": dict(by_type.most_common()),
        "keys": {
            "model": config.model.type,
            "context_length": config.model.context_length,
            "vocab_size": config.model.vocab_size,
            "layers": decoder.num_hidden_layers,
            "heads": f"{decoder.num_attention_heads}, {decoder.num_key_value_heads} for keys and values",
            "head_size": decoder.head_size,
            "hidden_size": decoder.hidden_size,
            "eos_token_id": ", ".join(map(str, config.eos_ids)),
        },
        "types": {tensor.name: tensor.type_name for tensor in tensors if len(tensor.shape) > 1},
    }


def describe_packed(path: Path) -> dict[str, Any]:
    """What a GPTQ or AWQ model's configuration and headers say, both checked."""
    found = read_packed(path)
    by_type: Counter[str] = Counter()
    for name, info in found.tensors.items():
        by_type[f"INT{found.bits}" if name.endswith(".qweight") else info.dtype] += (
            info.size * ITEM_BYTES[info.dtype]
        )
    config = found.config
    return {
        "kind": found.method,
        "size": sum(file.stat().st_size for file in found.weights),
        "tensors": len(found.tensors),
        "bytes_by_type": dict(by_type.most_common()),
        "keys": {
            "model": config.get("model_type"),
            "bits": found.bits,
            "group_size": found.group_size,
            "act_order": bool(config["quantization_config"].get("desc_act")),
            "context_length": found.context,
            "vocab_size": config["vocab_size"],
            "layers": config["num_hidden_layers"],
            "hidden_size": config["hidden_size"],
            "eos_token_id": ", ".join(map(str, found.eos_ids)),
        },
        "types": {name: info.dtype for name, info in found.tensors.items() if len(info.shape) > 1},
    }


_ARTIFACTS: Final = {
    "gguf": describe_gguf, "onnx": describe_onnx, "gptq": describe_packed, "awq": describe_packed,
}  # fmt: skip


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint is, and whether it converts."""
    from edgekit.converters.checkpoint import read_config
    from edgekit.converters.gguf import plan
    from edgekit.converters.text_model import open_model
    from edgekit.errors import EdgekitError

    checkpoint, config = open_model(path), read_config(path)
    try:
        infos = [checkpoint.info(name) for name in checkpoint.names()]
        found: dict[str, Any] = {
            "kind": "checkpoint",
            "architectures": config.get("architectures") or [],
            "model_type": config.get("model_type"),
            "parameters": sum(info.size for info in infos),
            "tensors": len(infos),
            "dtypes": dict(Counter(info.dtype for info in infos).most_common()),
            "files": {file.path.name: file.path.stat().st_size for file in checkpoint.files},
            "tied_embeddings": "lm_head.weight" not in checkpoint.names(),
        }
        try:
            words = plan.lay_out(checkpoint, path, path.name).vocabulary
            assert words is not None
            found |= {"converts": True, "tokenizer": words.model, "pre_tokenizer": words.pre or None}
            found |= {"notes": list(words.notes), "why_not": None}
        except EdgekitError as error:
            found |= {"converts": False, "tokenizer": None, "pre_tokenizer": None}
            found |= {"notes": [], "why_not": str(error)}
        return found
    finally:
        checkpoint.close()


def describe_adapter(path: Path, base: Path | None) -> dict[str, Any]:
    """The lint: what an adapter trains, how strongly, the base it names, and what would not merge."""
    from edgekit.converters.adapter import Adapter
    from edgekit.converters.fit import misfits
    from edgekit.converters.gguf.gguf_source import GgufSource
    from edgekit.converters.text_model import open_model

    adapter = Adapter(path)
    try:
        problems = list(adapter.problems)
        if base is not None:
            with closing(GgufSource(base, merging=True) if base.is_file() else open_model(base)) as opened:
                problems += misfits(adapter, opened)
        return {
            "kind": "adapter",
            "type": _kind(adapter),
            "base_it_names": adapter.base_name,
            "parameters": sum(extent.info.size for extent in adapter.file.tensors.values()),
            "dtypes": dict(Counter(e.info.dtype for e in adapter.file.tensors.values())),
            "trains": _trained(adapter),
            "saved_whole": sorted(adapter.saved),
            "checked_against": None if base is None else str(base),
            "fits": None if base is None else not problems,
            "problems": problems,
            "notes": _notes(adapter),
        }
    finally:
        adapter.close()


def _trained(adapter: Adapter) -> list[dict[str, Any]]:
    """Modules of one kind, rank and scale together."""
    groups: dict[tuple[str, int, float], list[Pair]] = {}
    for pair in adapter.pairs.values():
        what = pair.parameter if pair.parameter != "weight" else pair.module.rsplit(".", 1)[-1]
        groups.setdefault((what, pair.rank, pair.scale), []).append(pair)
    return [
        {
            "module": kind,
            "count": len(pairs),
            "rank": rank,
            "scale": round(scale, 6),
            "shape": list(adapter.shape(pairs[0])),
        }
        for (kind, rank, scale), pairs in sorted(groups.items(), key=lambda item: item[0])
    ]


def _kind(adapter: Adapter) -> str:
    kind = "rsLoRA" if adapter.config.get("use_rslora") else "LoRA"
    kind = "DoRA" if adapter.config.get("use_dora") else kind
    return f"{kind} (MLX)" if adapter.mlx else kind


def _notes(adapter: Adapter) -> list[str]:
    notes = list(adapter.notes)
    if adapter.config.get("layers_to_transform") not in (None, []):
        notes.append(f"only layers {adapter.config['layers_to_transform']}")
    if adapter.tokens:
        rows = sum(len(tokens.indices or ()) for tokens in adapter.tokens.values())
        notes.append(f"replaces {rows} single rows of embeddings")
    if adapter.saved:
        notes.append(
            "replaces whole tensors; tied embeddings become untied where only one of the two is replaced"
        )
    return notes


def _bits(tensors: Sequence[GgufTensor]) -> float:
    weights = sum(prod(tensor.dimensions) for tensor in tensors)
    return 8 * sum(t.nbytes for t in tensors) / max(1, weights)


def _shown(value: Any) -> Any:
    if isinstance(value, GgufArray):
        return f"[{value.length:,} × {str(value.first[:3])[1:-1]}, …]" if value.length > 3 else value.first
    return value
