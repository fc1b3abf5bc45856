"""Qwen3.5, the dense ones: gated delta nets in most layers, gated attention in the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, delta_net, hybrid, limits, settings
from edgekit.converters.gguf.decoder import Line
from edgekit.converters.gguf.family import ARRAY, U32, Entry, Mapped, unsupported, whole
from edgekit.converters.gguf.presets import Model
from edgekit.converters.gguf.rope import rope
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("Qwen3_5ForCausalLM",)
ARCH = "qwen35"
IGNORED: Sequence[str] = (".rotary_emb.inv_freq",)
DEFAULTS = {
    "num_key_value_heads": 4, "max_position_embeddings": 32768, "head_dim": 256, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "full_attention_interval": 4, "partial_rotary_factor": 0.25,
}  # fmt: skip
"""What transformers' Qwen3_5TextConfig has where config.json is silent."""
SECTIONS = [11, 11, 10]
"""Parts of a head that turn by time, height and width: the same position in text."""


def check(config: Mapping[str, Any]) -> None:
    config = _filled(config)
    decoder.check(config, ropes=("default",))
    limits.check_flag(config, "attention_bias", "biases on Qwen3.5's attention")
    delta_net.check(config)
    _kinds(config)
    settings.rotated_size(config, 0.25)
    _sections(config)


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = _filled(config)
    recurrent = [kind == "linear_attention" for kind in _kinds(config)]
    return [
        *decoder.metadata(ARCH, config, llama=False),
        *delta_net.metadata(ARCH, config),
        Entry(f"{ARCH}.attention.recurrent_layers", recurrent, ARRAY),
        Entry(f"{ARCH}.full_attention_interval", whole(config, "full_attention_interval"), U32),
        Entry(f"{ARCH}.rope.dimension_count", settings.rotated_size(config, 0.25), U32),
        Entry(f"{ARCH}.rope.dimension_sections", [*_sections(config), 0], ARRAY),
    ]


def tensors(source: TensorSource) -> list[Mapped]:
    config = _filled(source.config)
    hidden, size, (count, _) = whole(config, "hidden_size"), decoder.head_dim(config), decoder.heads(config)
    both = [
        *decoder.norms(config, decoder.plus_one, input_layernorm="attn_norm"),
        *decoder.norms(config, decoder.plus_one, post_attention_layernorm="post_attention_norm"),
        *decoder.gated(config, bias=False),
    ]
    _, *others = decoder.attention(config, bias=False, output_bias=False)
    full = [
        # Each head's query, then its gate.
        Line("self_attn.q_proj", "attn_q", (2 * count * size, hidden), bias=False),
        *others,
        *decoder.head_norms(config, decoder.plus_one, bias=False),
    ]
    norm = Line("model.norm", "output_norm", (hidden,), transform=decoder.plus_one, bias=False)
    lines = {"linear_attention": [*both, *delta_net.lines(config)], "full_attention": [*both, *full]}

    def more(prefix: str, gguf_prefix: str) -> list[Mapped]:
        return delta_net.tensors(source, config, prefix, gguf_prefix)

    return hybrid.tensors(source, config, norm, _kinds(config), lines, more)


def mixture(config: Mapping[str, Any]) -> Model:
    return decoder.mixture(_filled(config))


def _filled(config: Mapping[str, Any]) -> dict[str, Any]:
    filled = {**DEFAULTS, **config}
    if filled.get("layer_types") is None:
        step, layers = whole(filled, "full_attention_interval"), range(whole(filled, "num_hidden_layers"))
        filled["layer_types"] = ["linear_attention" if (i + 1) % step else "full_attention" for i in layers]
    return filled


def _kinds(config: Mapping[str, Any]) -> list[str]:
    return hybrid.kinds(config, "linear_attention", "full_attention")


def _sections(config: Mapping[str, Any]) -> list[int]:
    found = rope(config).get("mrope_section", SECTIONS)
    if (
        not isinstance(found, list)
        or len(found) != 3
        or not all(type(n) is int and 0 < n < 1024 for n in found)
    ):
        raise unsupported("sections of the rotation", found, "three numbers")
    return found
