"""StableLM 3B, 2 1.6B and 2 12B: LayerNorms with biases, partly rotated heads, in 12B a norm for every head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder, limits, settings
from edgekit.converters.gguf.family import BOOL, U32, Entry, Mapped, Part, expect, unsupported, whole
from edgekit.tensors import TensorSource

ARCHITECTURES: Sequence[str] = ("StableLmForCausalLM",)
ARCH = "stablelm"
IGNORED: Sequence[str] = (".rotary_emb.inv_freq",)

DEFAULTS = {"max_position_embeddings": 4096, "layer_norm_eps": 1e-5}
SWITCHES = ("use_qkv_bias", "qk_layernorm", "use_parallel_residual")
NOT_WRITTEN = (
    "rope.freq_base", "vocab_size", "rope.dimension_count", "attention.key_length", "attention.value_length"
)  # fmt: skip

mixture = decoder.mixture


def check(config: Mapping[str, Any]) -> None:
    limits.check_head_size(config)
    for key in SWITCHES:
        if config.get(key) not in (None, True, False):
            raise unsupported(f"{key} isn't understood", config[key], "true or false")
    # llama.cpp needs a head apart from the embedding.
    settings.fixed(config, tie_word_embeddings=False, is_causal=True)
    decoder.check(config, ropes=("default",))
    settings.usual_base(config)
    settings.rotated_size(config, 0.25)


def metadata(config: Mapping[str, Any]) -> list[Entry]:
    config = settings.completed(config, DEFAULTS)
    return [
        *settings.trimmed(ARCH, config, *NOT_WRITTEN, epsilon="layer_norm_eps"),
        Entry(f"{ARCH}.rope.dimension_count", settings.rotated_size(config, 0.25), U32),
        Entry(f"{ARCH}.use_parallel_residual", bool(config.get("use_parallel_residual")), BOOL),
    ]


def tensors(source: TensorSource) -> list[Mapped]:
    config = source.config
    names = {"input_layernorm": "attn_norm"}
    if not config.get("use_parallel_residual"):
        names["post_attention_layernorm"] = "ffn_norm"
    lines = [*decoder.norms(config, None, **names), *decoder.attention(config), *decoder.gated(config)]
    out = decoder.decoder(source, lines)
    biased = [*names.values(), "output_norm"]
    if config.get("use_qkv_bias"):
        biased += ["attn_q", "attn_k", "attn_v"]
    out = settings.biased(out, *biased)
    if config.get("qk_layernorm"):
        for layer in range(whole(config, "num_hidden_layers")):
            out += _head_norms(source, layer)
    return out


def _head_norms(source: TensorSource, layer: int) -> list[Mapped]:
    """A norm for each head, stored one by one, put into one matrix."""
    size, out = decoder.head_dim(source.config), []
    for kind, heads in zip("qk", decoder.heads(source.config), strict=True):
        names = [
            f"model.layers.{layer}.self_attn.{kind}_layernorm.norms.{head}.weight" for head in range(heads)
        ]
        parts = tuple(Part(name, 0, expect(source, name, (size,))[0]) for name in names)
        out.append(Mapped(f"blk.{layer}.attn_{kind}_norm.weight", (heads, size), parts=parts))
    return out
