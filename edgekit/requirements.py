"""What a GGUF artifact takes to run in llama.cpp, from its config and its size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BATCH, OUTPUTS = 512, 64
"""Tokens per call and logits rows that edgekit's runtime reserves for."""
CONTEXTS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)
PROCESS = 64 << 20
"""An interpreter with numpy and llama.cpp loaded, before any model."""


def memory_by_context(config: Mapping[str, Any], weights: int) -> dict[str, int]:
    """Bytes by context length (text, for JSON), up to the trained one: weights, KV cache in F16, buffers, process."""
    trained = int(config.get("max_position_embeddings") or 2048)
    lengths = [n for n in CONTEXTS if n < trained] + [trained]
    return {str(n): weights + kv_cache(config, n) + _buffers(config, n) + PROCESS for n in lengths}


def kv_cache(config: Mapping[str, Any], context: int) -> int:
    """Bytes of keys and values of every layer that has its own, two bytes a number."""
    widths = config.get("key_widths")
    if widths is None:
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        widths = [(config.get("num_key_value_heads") or heads) * head_dim] * config["num_hidden_layers"]
    return int(2 * 2 * sum(widths) * context)


def _buffers(config: Mapping[str, Any], context: int) -> int:
    """llama.cpp's scratch for one call: activations and the attention mask, or the logits where they are larger."""
    hidden, ffn = config["hidden_size"], config.get("intermediate_size") or 4 * config["hidden_size"]
    activations = BATCH * 4 * (3 * ffn + 4 * hidden) + BATCH * context * 2
    logits = OUTPUTS * 4 * config["vocab_size"] + BATCH * 4 * hidden
    return int(max(activations, logits))
