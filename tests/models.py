"""Tiny models made at test time: checkpoints, adapters and tokenizers in the layouts that people save."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.make_model import CHAT, SPECIALS, tokenizer

Arrays = Mapping[str, NDArray[Any]]

_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
          "float8_e5m2": "F8_E5M2", "int32": "I32", "uint8": "U8"}  # fmt: skip


def save(path: Path, arrays: Arrays, metadata: dict[str, str] | None = None) -> None:
    """Write safetensors by hand (numpy and ml_dtypes types), so that the reader's oracle is another writer."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        header[name] = {
            "dtype": _NAMES[str(array.dtype)], "shape": list(array.shape), "data_offsets": [offset, end]
        }  # fmt: skip
        offset = end
    encoded = json.dumps(header).encode()
    blob = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + blob)


def llama_config(**changes: Any) -> dict[str, Any]:
    """A config of a two-layer Llama with grouped queries."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 384, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "torch_dtype": "float32",
    }  # fmt: skip
    config |= changes
    ids = {text: config["vocab_size"] - len(SPECIALS) + i for i, text in enumerate(SPECIALS)}
    config.setdefault("bos_token_id", ids["<|begin_of_text|>"])
    config.setdefault("eos_token_id", ids["<|eot_id|>"])
    return config


def llama_weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random weights of a Llama, float32, scaled so that activations stay sane."""
    rng = np.random.default_rng(seed)
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim", hidden // heads)

    def normal(*shape: int) -> NDArray[np.float32]:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(shape[-1]), np.float32)

    def near_one(size: int) -> NDArray[np.float32]:
        return np.asarray(1 + 0.1 * rng.standard_normal(size), np.float32)

    out = {"model.embed_tokens.weight": normal(config["vocab_size"], hidden) * 4}
    for i in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{i}."
        out[prefix + "input_layernorm.weight"] = near_one(hidden)
        out[prefix + "post_attention_layernorm.weight"] = near_one(hidden)
        for name, rows, columns in (
            ("self_attn.q_proj", heads * head_dim, hidden),
            ("self_attn.k_proj", kv_heads * head_dim, hidden),
            ("self_attn.v_proj", kv_heads * head_dim, hidden),
            ("self_attn.o_proj", hidden, heads * head_dim),
            ("mlp.gate_proj", ffn, hidden),
            ("mlp.up_proj", ffn, hidden),
            ("mlp.down_proj", hidden, ffn),
        ):
            out[f"{prefix}{name}.weight"] = normal(rows, columns)
            if config["attention_bias"] if "attn" in name else config["mlp_bias"]:
                out[f"{prefix}{name}.bias"] = normal(rows) * 0.1
    out["model.norm.weight"] = near_one(hidden)
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = normal(config["vocab_size"], hidden)
    return out


def write_sidecars(folder: Path, config: Mapping[str, Any]) -> None:
    """config.json, a byte-level tokenizer with Llama 3's pattern, and a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(config["vocab_size"])))
    words = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**words, "tokenizer_class": "PreTrainedTokenizerFast"})
    )


def write_llama(folder: Path, *, dtype: Any = np.float32, shards: int = 1, **changes: Any) -> Path:
    """A whole checkpoint; with ``shards`` above 1 it has an index."""
    config = llama_config(**changes)
    write_sidecars(folder, config)
    weights = {name: array.astype(dtype) for name, array in llama_weights(config).items()}
    if shards == 1:
        save(folder / "model.safetensors", weights)
        return folder
    names = list(weights)
    parts = [names[i::shards] for i in range(shards)]
    index: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        shard = f"model-{number:05}-of-{shards:05}.safetensors"
        save(folder / shard, {name: weights[name] for name in part})
        index |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def write_adapter(folder: Path, arrays: Arrays, **config: Any) -> Path:
    """A PEFT adapter's two files; tensors are named without PEFT's prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none",
        "base_model_name_or_path": "tiny", "target_modules": ["q_proj", "v_proj"],
    } | config  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save(folder / "adapter_model.safetensors", {f"base_model.model.{name}": a for name, a in arrays.items()})
    return folder


def lora_arrays(
    config: Mapping[str, Any], modules: list[str], rank: int = 4, seed: int = 1
) -> dict[str, Any]:
    """Random factors for modules of a Llama."""
    rng = np.random.default_rng(seed)
    shapes = {name.removesuffix(".weight"): array.shape for name, array in llama_weights(config).items()}
    out: dict[str, Any] = {}
    for module in modules:
        rows, columns = shapes[module]
        out[f"{module}.lora_A.weight"] = rng.standard_normal((rank, columns)).astype(np.float32) * 0.1
        out[f"{module}.lora_B.weight"] = rng.standard_normal((rows, rank)).astype(np.float32) * 0.1
    return out


def attention_modules(layers: int, kinds: tuple[str, ...] = ("q_proj", "v_proj")) -> list[str]:
    """Names of the attention modules of each layer."""
    return [f"model.layers.{i}.self_attn.{kind}" for i in range(layers) for kind in kinds]
