"""A model's shape from an ONNX export: its configuration and the tensors that its graph lists; no weight is looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Final

from edgekit.genai_config import GenaiConfig
from edgekit.onnx_header import OnnxTensor
from edgekit.profiles.predict import Shape

_LIKE: Final = {"INT4": ("Q4_0", 2), "INT8": ("Q8_0", 1)}
"""What MatMulNBits multiplies: the GGUF type that is like it, weights in a byte."""
_BESIDE: Final = ("_cache", "_scale", "_scales", "_zp", "_zero_point")
"""Of names of what isn't multiplied by itself: tables of rotations, and what packed weights are scaled with."""
_EMBEDDING: Final = "embed_tokens"


def onnx_shape(config: GenaiConfig, tensors: Sequence[OnnxTensor], file_bytes: int) -> Shape:
    """The shape of a model that onnxruntime-genai's builder exported."""
    decoder = config.model.decoder
    weights, nbytes = Counter[str](), 0
    matrices = Counter[str]()
    for tensor in tensors:
        if _EMBEDDING in tensor.name or tensor.name.endswith(_BESIDE):
            nbytes += 0 if _EMBEDDING in tensor.name or tensor.name.endswith("_cache") else tensor.nbytes
            continue
        kind, per_byte = _LIKE.get(tensor.type_name, (tensor.type_name, 0))
        count = tensor.nbytes * per_byte or prod(tensor.shape)
        nbytes += tensor.nbytes
        weights[kind] += count
        if len(tensor.shape) > 1:
            matrices[kind] += tensor.nbytes
    width = 2 * decoder.num_key_value_heads * decoder.head_size
    return Shape(
        file_bytes=file_bytes,
        weight_bytes=sum(tensor.nbytes for tensor in tensors),
        token_bytes=nbytes,
        token_weights=sum(weights.values()),
        token_kinds=dict(weights),
        layers=decoder.num_hidden_layers,
        kv_widths=(width,) * decoder.num_hidden_layers,
        state_bytes=0,
        n_vocab=config.model.vocab_size,
        width=decoder.hidden_size,
        ffn=_ffn(tensors) or 4 * decoder.hidden_size,
        trained=config.model.context_length,
        matrices=dict(matrices),
    )


def precision(tensors: Sequence[OnnxTensor]) -> str:
    """As the builder calls it: INT4 or INT8 where anything is packed so, else the type of the matrices."""
    types = Counter(one.type_name for one in tensors if len(one.shape) > 1)
    if packed := next((name for name in _LIKE if name in types), None):
        return packed
    return "FP16" if types.most_common(1) and types.most_common(1)[0][0] == "F16" else "FP32"


def _ffn(tensors: Sequence[OnnxTensor]) -> int:
    """The width of a feed-forward: rows of what MatMulNBits multiplies, columns of a plain matrix."""
    widths = [
        one.shape[0] if len(one.shape) == 3 else one.shape[-1] for one in tensors if ".up_proj." in one.name
    ]
    return max(widths, default=0)
