"""Gemma 4's text models: heads sized by kind of layer, shared keys and values, embeddings for every layer, experts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, experts, gemma, gemma4_layers, gemma4_tensors, settings, turns
from edgekit.converters.gguf.family import ARRAY, F32, U32, Entry, number, whole
from edgekit.converters.gguf.gemma4_layers import MIXED, WIDTH, filled
from edgekit.converters.gguf.presets import Model
from edgekit.converters.gguf.rope import proportional
from edgekit.converters.gguf.turns import FULL, LOCAL

ARCHITECTURES: Sequence[str] = ("Gemma4ForCausalLM",)
ARCH = "gemma4"
IGNORED: Sequence[str] = gemma.IGNORED
CAP = "final_logit_softcapping"
SWITCHES = ("attention_k_eq_v", "use_double_wide_mlp", "tie_word_embeddings", MIXED)

tensors = gemma4_tensors.tensors


def check(config: Mapping[str, Any]) -> None:
    if config.get("use_bidirectional_attention") == "vision":  # between images only
        config = {**config, "use_bidirectional_attention": None}
    config = filled(config)
    settings.switches(config, *SWITCHES)
    whole(config, "sliding_window")
    number(config, CAP, 30.0)
    layers, blocks = gemma4_layers.layers(config), turns.rotations(config)
    for layer in layers:
        gemma.check_shared({**config, **layer.sizes, "rope_parameters": {}})
    turns.check_scaling(blocks, LOCAL, "default")
    turns.check_scaling(blocks, FULL, "proportional")
    settings.fixed(blocks[LOCAL], factor=1, partial_rotary_factor=1)
    settings.fixed(blocks[FULL], factor=1)
    for block in blocks.values():
        number(block, "rope_theta", math.nan)
    proportional(blocks[FULL], layers[-1].size)
    if config[WIDTH] != 0:
        whole(config, WIDTH)
        settings.fixed(config, vocab_size_per_layer_input=whole(config, "vocab_size"))
    if config[MIXED]:
        experts.check(config)


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = filled(config)
    layers = gemma4_layers.layers(config)
    full, local = layers[-1], next(layer for layer in layers if layer.kind == LOCAL)
    flat = {**config, "rope_parameters": config["rope_parameters"][FULL], "head_dim": full.size}
    varied = {
        "feed_forward_length": [layer.ffn for layer in layers],
        "attention.head_count_kv": [layer.shared for layer in layers],
    }
    numbers = {
        "attention.sliding_window": whole(config, "sliding_window"),
        "attention.shared_kv_layers": sum(not layer.stores for layer in layers),
        "embedding_length_per_layer_input": config[WIDTH],
        "attention.key_length_swa": local.size,
        "attention.value_length_swa": local.size,
        "rope.dimension_count_swa": local.size,
    }
    # llama.cpp caps at 30 where nothing is said, and doesn't at 0.
    cap = 0.0 if config.get(CAP) is None else number(config, CAP, 30.0)
    base = number(config["rope_parameters"][LOCAL], "rope_theta", 1e4)
    lengths = {"expert_feed_forward_length": "moe_intermediate_size"}
    return [
        *settings.varied(ARCH, settings.trimmed(ARCH, flat, "vocab_size"), varied),
        *(Entry(f"{ARCH}.{key}", value, U32) for key, value in numbers.items()),
        Entry(f"{ARCH}.{CAP}", cap, F32),
        Entry(f"{ARCH}.rope.freq_base_swa", base, F32),
        Entry(f"{ARCH}.attention.sliding_window_pattern", [layer.kind == LOCAL for layer in layers], ARRAY),
        *(experts.metadata(ARCH, config, **lengths) if config[MIXED] else []),
    ]


def mixture(config: Mapping[str, Any]) -> Model:
    config = filled(config)
    first = {**config, **gemma4_layers.layers(config)[0].sizes}
    return experts.mixture(first) if config[MIXED] else decoder.mixture(first)
