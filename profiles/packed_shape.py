"""A model's shape from GPTQ or AWQ weights: their configuration and headers; no weight is looked at."""

from __future__ import annotations

from collections import Counter
from math import prod

from edgekit.packed_folder import PackedFolder
from edgekit.profiles.predict import Shape

_LIKE = {2: "Q2_K", 3: "Q3_K", 4: "Q4_0", 8: "Q8_0"}
"""The GGUF type that is like so many bits."""
_BYTES = {"F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}


def packed_shape(found: PackedFolder) -> Shape:
    """The shape of what gptqmodel wrote."""
    config, weights, nbytes, token_bytes = found.config, Counter[str](), 0, 0
    matrices: Counter[str] = Counter()
    for name, info in found.tensors.items():
        size = prod(info.shape) * _BYTES.get(info.dtype, 8)
        nbytes += size
        if "embed_tokens" in name and not config.get("tie_word_embeddings"):
            continue
        token_bytes += size
        packed = name.endswith(".qweight")
        kind = _LIKE[found.bits] if packed else info.dtype
        weights[kind] += size * 8 // found.bits if packed else prod(info.shape)
        if packed or (len(info.shape) == 2 and info.dtype != "I32"):
            matrices[kind] += size
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    layers = config["num_hidden_layers"]
    return Shape(
        file_bytes=sum(path.stat().st_size for path in found.files),
        weight_bytes=nbytes,
        token_bytes=token_bytes,
        token_weights=sum(weights.values()),
        token_kinds=dict(weights),
        layers=layers,
        kv_widths=(2 * heads * head,) * layers,
        state_bytes=0,
        n_vocab=config["vocab_size"],
        width=config["hidden_size"],
        ffn=config["intermediate_size"],
        trained=config["max_position_embeddings"],
        matrices=dict(matrices),
    )
