"""Gemma, Phi, StableLM and GPT-2: what llama.cpp would compute otherwise is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import families, settings
from edgekit.errors import InputError, UnsupportedModelError
from edgekit.tensors import ALL, Float32, TensorInfo
from tests.converters.cases import CASES
from tests.converters.oracles import make

Config = dict[str, Any]
SIZES: Config = {
    "vocab_size": 384, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
LONGROPE: Config = {"type": "longrope", "long_factor": [2.0] * 8, "short_factor": [1.0] * 8}
CONFIGS: dict[str, Config] = {
    "gemma": {"architectures": ["GemmaForCausalLM"], "head_dim": 16, **SIZES},
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"], "head_dim": 16, "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, **SIZES,
    },
    "gemma3": {"architectures": ["Gemma3ForCausalLM"], "head_dim": 16, "query_pre_attn_scalar": 16, **SIZES},
    "phi3": {"architectures": ["Phi3ForCausalLM"], "rope_scaling": LONGROPE, **SIZES},
    "stablelm": {"architectures": ["StableLmForCausalLM"], **SIZES},
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"], "vocab_size": 384, "n_embd": 64, "n_head": 4, "n_layer": 2,
        "n_positions": 256,
    },
}  # fmt: skip


class Shapes:
    """A source that knows shapes only."""

    def __init__(self, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.config, self.shapes = config, shapes

    def names(self) -> Sequence[str]:
        return tuple(self.shapes)

    def info(self, name: str) -> TensorInfo:
        return TensorInfo("BF16", self.shapes[name])

    def read(self, name: str, rows: slice = ALL, out: Float32 | None = None) -> Float32:
        raise AssertionError(f"{name} was read")

    def read_columns(self, name: str, columns: slice = ALL, out: Float32 | None = None) -> Float32:
        raise AssertionError(f"{name} was read")

    def prefetch(self, name: str, rows: slice = ALL) -> None:
        raise AssertionError(f"{name} was read")


def metadata(config: Config) -> Config:
    family = families.find(config, Path("config.json"))
    return {entry.key: entry.value for entry in family.metadata(config)}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configs_that_refusals_change_are_accepted(name: str) -> None:
    assert metadata(CONFIGS[name])[f"{name}.context_length"] == 256


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gemma", {"hidden_act": "relu"}, "activation"),
        ("gemma", {"hidden_activation": "gelu"}, "activation"),
        ("gemma", {"attention_bias": True}, "attention_bias"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma", {"is_causal": False}, "is_causal"),
        ("gemma", {"rope_theta": 5e5}, "rotation base"),
        ("gemma", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope scaling"),
        ("gemma", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("gemma2", {"hidden_activation": "silu"}, "activation"),
        ("gemma2", {"query_pre_attn_scalar": 32}, "queries are scaled"),
        (
            "gemma2",
            {"num_hidden_layers": 46, "head_dim": 32, "query_pre_attn_scalar": 32},
            "queries are scaled",
        ),
        ("gemma2", {"layer_types": ["full_attention", "sliding_attention"]}, "layers take turns"),
        ("gemma2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "rotation base"),
        ("gemma2", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("gemma3", {"query_pre_attn_scalar": 256}, "queries are scaled"),
        ("gemma3", {"layer_types": ["sliding_attention", "full_attention"]}, "layers take turns"),
        ("gemma3", {"sliding_window_pattern": 2}, "layers take turns"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "cap on attention"),
        ("gemma3", {"rope_parameters": {"rope_type": "default"}}, "by kind of layer"),
        ("gemma3", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope scaling"),
        (
            "gemma3",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "in sliding_attention layers",
        ),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {"architectures": ["Gemma3ForConditionalGeneration"]}, "isn't converted"),
        ("phi3", {"hidden_act": "gelu"}, "activation"),
        ("phi3", {"head_dim": 32}, "head size"),
        ("phi3", {"num_attention_heads": 6}, "divide the hidden size"),
        ("phi3", {"rope_scaling": {**LONGROPE, "type": "yarn"}}, "rope scaling"),
        ("phi3", {"rope_scaling": {**LONGROPE, "type": "default"}}, "rotation factors without"),
        ("phi3", {"rope_scaling": {**LONGROPE, "long_mscale": 1.2}}, "long_mscale"),
        ("phi3", {"partial_rotary_factor": 0.07}, "can't be rotated"),
        (
            "phi3",
            {
                "rope_scaling": {**LONGROPE, "original_max_position_embeddings": 64},
                "original_max_position_embeddings": 128,
            },
            "original_max",
        ),
        ("stablelm", {"hidden_act": "gelu"}, "activation"),
        ("stablelm", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("stablelm", {"rope_theta": 5e5}, "rotation base"),
        ("stablelm", {"use_parallel_residual": "yes"}, "use_parallel_residual"),
        ("stablelm", {"partial_rotary_factor": 1.5}, "can't be rotated"),
        ("stablelm", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope scaling"),
        ("gpt2", {"activation_function": "relu"}, "activation"),
        ("gpt2", {"activation_function": "gelu"}, "activation"),
        ("gpt2", {"n_head": 5}, "divide the hidden size"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"n_ctx": 512}, "n_ctx"),
    ],
)
def test_configs_that_llama_cpp_would_compute_otherwise(name: str, change: Config, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        families.find(CONFIGS[name] | change, Path("config.json"))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping"),
        ("gemma2", {"final_logit_softcapping": 0}, "final_logit_softcapping"),
        ("gemma2", {"sliding_window": "4096"}, "sliding_window"),
        ("gemma3", {"sliding_window": 0}, "sliding_window"),
        ("gemma3", {"rope_local_base_freq": "10000"}, "rope_theta"),
        ("gemma3", {"rope_scaling": [8]}, "rope_scaling is unsound"),
        ("gemma3", {"layer_types": 6}, "layer_types"),
        ("phi3", {"sliding_window": -1}, "sliding_window"),
        ("phi3", {"rope_scaling": {**LONGROPE, "long_factor": [1.0] * 7}}, "long_factor"),
        ("phi3", {"rope_scaling": {**LONGROPE, "short_factor": [1.0] * 7 + [0.0]}}, "short_factor"),
        ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8}}, "long_factor"),
        ("gpt2", {"n_inner": -1}, "n_inner"),
    ],
)
def test_unsound_configs(name: str, change: Config, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metadata(CONFIGS[name] | change)


@pytest.mark.parametrize("case", ["gemma", "gemma-2"])
def test_a_head_that_llama_cpp_would_not_use(tmp_path: Path, case: str) -> None:
    make(CASES[case], tmp_path)
    base = Checkpoint(tmp_path)
    shapes = {name: base.info(name).shape for name in base.names()} | {"lm_head.weight": (384, 64)}
    with pytest.raises(UnsupportedModelError, match="head apart"):
        families.find(base.config, tmp_path).tensors(Shapes(base.config, shapes))


@pytest.mark.parametrize(
    ("case", "gained", "lost"),
    [
        ("gemma", "model.layers.0.self_attn.q_proj.bias", ""),
        ("phi-4", "model.layers.1.mlp.down_proj.bias", ""),
        ("stablelm-2-12b", "model.layers.0.self_attn.k_proj.bias", ""),
        ("stablelm-2-1.6b", "", "model.layers.1.self_attn.v_proj.bias"),
        ("stablelm-2-1.6b", "", "model.norm.bias"),
        ("gpt-2", "lm_head.bias", ""),
    ],
)
def test_biases_that_the_architecture_has_not_or_lacks(
    tmp_path: Path, case: str, gained: str, lost: str
) -> None:
    make(CASES[case], tmp_path)
    base = Checkpoint(tmp_path)
    shapes = {name: base.info(name).shape for name in base.names() if name != lost}
    if gained:
        module = (
            base.info(f"{gained.removesuffix('bias')}weight").shape if "lm_head" not in gained else (384, 64)
        )
        shapes |= {gained: module[:1]} | ({"lm_head.weight": module} if "lm_head" in gained else {})
    family = families.find(base.config, tmp_path)
    with pytest.raises(InputError, match="biases aren't the architecture's"):
        family.tensors(Shapes(base.config, shapes))


@pytest.mark.parametrize("where", ["config", "rope_parameters"])
def test_a_rotation_of_nothing_is_not_the_usual_one(where: str) -> None:
    part = {"partial_rotary_factor": 0}
    config = {"hidden_size": 64, "num_attention_heads": 4, **(part if where == "config" else {where: part})}
    with pytest.raises(InputError, match="partial_rotary_factor"):
        settings.rotated_size(config, 0.25)
