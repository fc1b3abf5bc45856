"""SmolLM3: Llama's layout with no rotation in every fourth layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, limits, llama, qwen2
from edgekit.converters.gguf.family import Entry, Mapped, unsupported, whole
from edgekit.converters.gguf.presets import Model
from edgekit.errors import InputError
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("SmolLM3ForCausalLM",)
ARCH = "smollm3"
IGNORED = llama.IGNORED
DEFAULTS = {
    "num_key_value_heads": 4, "max_position_embeddings": 32768, "rope_theta": 2_000_000.0,
    "tie_word_embeddings": True,
}  # fmt: skip
"""What transformers' SmolLM3Config has where config.json is silent."""
STEP = 4
"""llama.cpp's graph rotates nothing in every fourth layer, and reads no other step from a file."""


def check(config: Mapping[str, Any]) -> None:
    config = {**DEFAULTS, **config}
    decoder.check(config, ropes=qwen2.ROPES)
    limits.check_rotation(config)
    for key in ("attention_bias", "mlp_bias"):
        limits.check_flag(config, key, "biases in SmolLM3's layers")
    limits.check_flag(config, "use_sliding_window", "a sliding window in SmolLM3's layers")
    qwen2.window(config)
    layers, step = whole(config, "num_hidden_layers"), whole(config, "no_rope_layer_interval", STEP)
    rotated = config.get("no_rope_layers")
    if rotated is None:
        rotated = [int((i + 1) % step != 0) for i in range(layers)]
    if not isinstance(rotated, list) or len(rotated) < layers:
        raise InputError(
            "config.json's no_rope_layers is unsound", found=rotated, expected="one for each layer"
        )
    if [bool(flag) for flag in rotated[:layers]] != [(i + 1) % STEP != 0 for i in range(layers)]:
        raise unsupported("another choice of layers without rotation", rotated, "every fourth layer")


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    return decoder.metadata(ARCH, {**DEFAULTS, **config})


def tensors(source: TensorSource) -> list[Mapped]:
    config = {**DEFAULTS, **source.config}
    return decoder.decoder(source, llama.lines(config), config=config)


def mixture(config: Mapping[str, Any]) -> Model:
    return decoder.mixture({**DEFAULTS, **config})
