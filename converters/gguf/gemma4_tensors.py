"""Gemma 4's tensors: a table for every layer, as its kind, its sharing and its experts have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgekit.converters.gguf import decoder, experts, gemma4_layers, settings, turns
from edgekit.converters.gguf.decoder import Line
from edgekit.converters.gguf.family import Mapped, whole
from edgekit.converters.gguf.gemma2 import NORMS
from edgekit.converters.gguf.gemma4_layers import MIXED, WIDTH, Layer
from edgekit.converters.gguf.rope import proportional
from edgekit.tensors import TensorSource


def tensors(source: TensorSource) -> list[Mapped]:
    """As ``Family.tensors``."""
    config = gemma4_layers.filled(source.config)
    layers, hidden, width = gemma4_layers.layers(config), whole(config, "hidden_size"), config[WIDTH]
    top = decoder.top(source, config, Line("model.norm", "output_norm", (hidden,)))
    if width:
        packed = len(layers) * width
        shape = whole(config, "vocab_size"), packed
        top += [
            Line("model.embed_tokens_per_layer", "per_layer_token_embd", shape),
            Line("model.per_layer_model_projection", "per_layer_model_proj", (packed, hidden)),
            Line("model.per_layer_projection_norm", "per_layer_proj_norm", (width,)),
        ]
    out = decoder.stacked(source, top, [_lines(config, layer) for layer in layers])
    full = turns.rotations(config)[turns.FULL]
    return [*settings.biased(out), proportional(full, layers[-1].size)]


def _lines(config: Mapping[str, Any], layer: Layer) -> list[Line]:
    own, hidden, width = {**config, **layer.sizes}, whole(config, "hidden_size"), config[WIDTH]
    query, key, value, output = decoder.attention(own)
    query_norm, key_norm = decoder.head_norms(own)
    stored = [key, key_norm, *([] if layer.value_is_key else [value])]
    if not layer.stores:
        # Published checkpoints keep what nothing reads, and so does llama.cpp's converter.
        stored = [replace(line, optional=True) for line in stored]
    lines = [*decoder.norms(config, None, **NORMS), query, query_norm, *stored, output, *decoder.gated(own)]
    if width:
        lines += [
            Line("per_layer_input_gate", "inp_gate", (width, hidden)),
            Line("per_layer_projection", "proj", (hidden, width)),
            Line("post_per_layer_input_norm", "post_norm", (hidden,)),
        ]
    lines.append(Line("layer_scalar", "layer_output_scale.weight", (1,), bare=True))
    return [*lines, *_experts(config)] if config[MIXED] else lines


def _experts(config: Mapping[str, Any]) -> list[Line]:
    """Experts beside the feed-forward; their gates and ups stay one stack, as llama.cpp takes them."""
    hidden, ffn = whole(config, "hidden_size"), whole(config, "moe_intermediate_size")
    count = experts.count(config)
    return [
        experts.router(config, "router.proj"),
        Line("router.scale", "ffn_gate_inp.scale", (hidden,), bare=True),
        Line("router.per_expert_scale", "ffn_down_exps.scale", (count,), bare=True),
        Line("experts.gate_up_proj", "ffn_gate_up_exps.weight", (count, 2 * ffn, hidden), bare=True),
        Line("experts.down_proj", "ffn_down_exps.weight", (count, hidden, ffn), bare=True),
        *decoder.norms(
            config,
            post_feedforward_layernorm_1="post_ffw_norm_1",
            post_feedforward_layernorm_2="post_ffw_norm_2",
            pre_feedforward_layernorm_2="pre_ffw_norm_2",
        ),
    ]
