"""Gemma 4's dense text models: heads sized by kind of layer, shared keys and values, embeddings for every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.converters.gguf import decoder, gemma, gemma4_config, settings
from edgekit.converters.gguf.decoder import Line
from edgekit.converters.gguf.family import ARRAY, F32, U32, Entry, Mapped, expect, number, whole
from edgekit.converters.gguf.gemma2 import NORMS
from edgekit.converters.gguf.gemma4_config import LOCAL, Layer
from edgekit.converters.gguf.presets import Model
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("Gemma4ForCausalLM",)
ARCH = "gemma4"
IGNORED: Sequence[str] = gemma.IGNORED
CAP = "final_logit_softcapping"
UNROTATED = 1e30
"""What llama.cpp divides a frequency by that must not turn."""

check = gemma4_config.check


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = gemma4_config.filled(config)
    layers = gemma4_config.layers(config)
    full, local = layers[-1], next(layer for layer in layers if layer.kind == LOCAL)
    flat = {**config, "rope_parameters": config["rope_parameters"][full.kind], "head_dim": full.size}
    varied: dict[str, Any] = {}
    if config["use_double_wide_mlp"]:
        varied["feed_forward_length"] = [layer.ffn for layer in layers]
    if full.shared != local.shared:
        varied["attention.head_count_kv"] = [layer.shared for layer in layers]
    entries = settings.trimmed(ARCH, flat, "vocab_size", *varied)
    entries += [Entry(f"{ARCH}.{key}", values, ARRAY) for key, values in varied.items()]
    # llama.cpp caps at 30 where nothing is said, and doesn't at 0.
    cap = 0.0 if config.get(CAP) is None else number(config, CAP, 30.0)
    entries.append(Entry(f"{ARCH}.{CAP}", cap, F32))
    numbers = {
        "attention.sliding_window": whole(config, "sliding_window"),
        "attention.shared_kv_layers": sum(not layer.stores for layer in layers),
        "embedding_length_per_layer_input": config["hidden_size_per_layer_input"],
        "attention.key_length_swa": local.size,
        "attention.value_length_swa": local.size,
        "rope.dimension_count_swa": local.size,
    }
    return [
        *entries,
        *(Entry(f"{ARCH}.{key}", value, U32) for key, value in numbers.items()),
        Entry(f"{ARCH}.rope.freq_base_swa", number(config["rope_parameters"][LOCAL], "rope_theta", 1e4), F32),
        Entry(f"{ARCH}.attention.sliding_window_pattern", [layer.kind == LOCAL for layer in layers], ARRAY),
    ]


def tensors(source: TensorSource) -> list[Mapped]:
    config = gemma4_config.filled(source.config)
    layers, hidden, vocab = (
        gemma4_config.layers(config),
        whole(config, "hidden_size"),
        whole(config, "vocab_size"),
    )
    top = [
        Line("model.embed_tokens", "token_embd", (vocab, hidden)),
        Line("model.norm", "output_norm", (hidden,)),
    ]
    if width := config["hidden_size_per_layer_input"]:
        packed = len(layers) * width
        top += [
            Line("model.embed_tokens_per_layer", "per_layer_token_embd", (vocab, packed)),
            Line("model.per_layer_model_projection", "per_layer_model_proj", (packed, hidden)),
            Line("model.per_layer_projection_norm", "per_layer_proj_norm", (width,)),
        ]
    if config["tie_word_embeddings"] is not True or "lm_head.weight" in source.names():
        top.append(Line("lm_head", "output", (vocab, hidden)))
    out = decoder.table(source, top, "", "")
    for index, layer in enumerate(layers):
        prefix, gguf_prefix = f"model.layers.{index}.", f"blk.{index}."
        lines = _lines(config, layer)
        if not layer.stores:
            # Published checkpoints keep what nothing reads, and so does llama.cpp's converter.
            lines = [
                line
                for line in lines
                if _read(line, layer) or decoder.has(source, f"{prefix}{line.module}.weight")
            ]
        out += decoder.table(source, lines, prefix, gguf_prefix)
        scalar = f"{prefix}layer_scalar"
        out.append(Mapped(f"{gguf_prefix}layer_output_scale.weight", expect(source, scalar, (1,)), scalar))
    return [*settings.biased(out), _rotation(config, layers[-1])]


def mixture(config: Mapping[str, Any]) -> Model:
    config = gemma4_config.filled(config)
    first, *_ = gemma4_config.layers(config)
    return decoder.mixture({**config, "num_key_value_heads": first.shared})


def _lines(config: Mapping[str, Any], layer: Layer) -> list[Line]:
    hidden, width = whole(config, "hidden_size"), config["hidden_size_per_layer_input"]
    own = {"head_dim": layer.size, "num_key_value_heads": layer.shared, "intermediate_size": layer.ffn}
    query, key, value, output = decoder.attention({**config, **own})
    lines = [
        *decoder.norms(config, None, **NORMS),
        *(query, key, *([] if layer.value_is_key else [value]), output),
        Line("self_attn.q_norm", "attn_q_norm", (layer.size,)),
        Line("self_attn.k_norm", "attn_k_norm", (layer.size,)),
        *decoder.gated({**config, **own}),
    ]
    if width:
        lines += [
            Line("per_layer_input_gate", "inp_gate", (width, hidden)),
            Line("per_layer_projection", "proj", (hidden, width)),
            Line("post_per_layer_input_norm", "post_norm", (hidden,)),
        ]
    return lines


def _read(line: Line, layer: Layer) -> bool:
    return layer.stores or line.gguf not in {"attn_k", "attn_v", "attn_k_norm"}


def _rotation(config: Mapping[str, Any], full: Layer) -> Mapped:
    """The part of a head that doesn't turn in layers that see everything, as divisors of the frequencies."""
    turning = gemma4_config.rotated(config, full.size)
    factors = np.full(full.size // 2, UNROTATED, np.float32)
    factors[:turning] = 1
    return Mapped("rope_freqs.weight", factors.shape, values=factors)
