"""What Llama's kin refuse from config.json alone, and what they make of a silent config and of a sliding window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import families, plan
from edgekit.converters.gguf.family import Family
from edgekit.converters.lora import Merged
from edgekit.errors import InputError, UnsupportedModelError
from tests.converters.test_gemma_phi_refusals import Shapes
from tests.models import llama_config, write_llama, write_sidecars

SIZES = {
    "vocab_size": 384, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "head_dim": 16,
    "rms_norm_eps": 1e-6,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def find(name: str, **change: Any) -> tuple[Family, dict[str, Any]]:
    config = {"architectures": [f"{name}ForCausalLM"], **SIZES, **change}
    return families.find(config, Path("config.json")), config


def keys(name: str, **change: Any) -> dict[str, Any]:
    """Metadata without the architecture's prefix."""
    family, config = find(name, **change)
    return {entry.key.removeprefix(f"{family.ARCH}."): entry.value for entry in family.metadata(config)}


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Qwen3", "Granite", "Olmo2", "SmolLM3"])
@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu"},
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
        {"rope_scaling": {"rope_type": "longrope", "factor": 4.0}},
        {"rope_scaling": YARN, "original_max_position_embeddings": 128},
        {"rope_scaling": {**YARN, "beta_fast": 16}},
        {"rope_scaling": {**YARN, "attention_factor": 1.5}},
        {"rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.8}},
        {"rope_scaling": {**YARN, "truncate": False}},
        {"rope_scaling": {**YARN, "factor": 0.5}},
        {"rope_scaling": {**YARN, "original_max_position_embeddings": 6}},
    ],
)
def test_what_no_llama_graph_computes(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError):
        find(name, **change)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Qwen2", {"rope_scaling": LLAMA3}),
        ("Qwen2", {"head_dim": 32}),
        ("Qwen2", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("Qwen2", {"layer_types": ["full_attention"] * 3, "use_sliding_window": False}),
        ("Qwen2", {"layer_types": ["chunked_attention"] * 2, "use_sliding_window": True}),
        ("Qwen3", {"rope_scaling": LLAMA3}),
        ("Qwen3", {"attention_bias": True}),
        ("Granite", {"head_dim": 32}),
        ("Olmo2", {"rope_scaling": LLAMA3}),
        ("Olmo2", {"attention_bias": True}),
        ("Olmo2", {"tie_word_embeddings": True}),
        ("Olmo2", {"head_dim": 32}),
        ("SmolLM3", {"rope_scaling": LLAMA3}),
        ("SmolLM3", {"attention_bias": True}),
        ("SmolLM3", {"mlp_bias": True}),
        ("SmolLM3", {"use_sliding_window": True}),
        ("SmolLM3", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("SmolLM3", {"no_rope_layers": [1, 0]}),
        ("SmolLM3", {"no_rope_layer_interval": 2}),
    ],
)
def test_what_the_familys_graph_lacks(name: str, change: dict[str, Any]) -> None:
    find(name)
    with pytest.raises(UnsupportedModelError):
        find(name, **change)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Mistral", {"sliding_window": 0}),
        ("Granite", {"attention_multiplier": 0}),
        ("Granite", {"logits_scaling": None}),
        ("SmolLM3", {"no_rope_layers": [1]}),
        ("SmolLM3", {"no_rope_layers": "1111"}),
    ],
)
def test_unsound_settings(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="is unsound"):
        find(name, **change)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("Mistral", {"sliding_window": 64}, 64),
        ("Mistral", {"sliding_window": None}, 256),
        ("Mistral", {"max_position_embeddings": 8192}, 4096),
        ("Mistral", {"sliding_window": 512}, 256),
        ("Qwen2", {"sliding_window": 64}, 256),
        ("Qwen2", {"sliding_window": 64, "use_sliding_window": True}, 256),
        ("Qwen2", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 0}, 64),
        ("Qwen3", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1}, 64),
        (
            "Qwen3",
            {
                "sliding_window": 64, "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            64,
        ),
    ],
)  # fmt: skip
def test_the_context_ends_where_a_sliding_window_would_begin(
    name: str, change: dict[str, Any], expected: int
) -> None:
    assert keys(name, **change)["context_length"] == expected


def test_silent_configs_mean_what_transformers_means() -> None:
    transformers = pytest.importorskip("transformers")
    for name in ("Mistral", "Qwen2", "Qwen3", "Granite", "Olmo2", "SmolLM3"):
        default = getattr(transformers, f"{name}Config")()
        needed = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
        )
        config = {"architectures": [f"{name}ForCausalLM"], **{key: getattr(default, key) for key in needed}}
        family = families.find(config, Path("config.json"))
        silent = {entry.key: entry.value for entry in family.metadata(config)}
        full = default.to_dict()
        spoken = {entry.key: entry.value for entry in family.metadata(full)}
        assert silent == spoken
        assert family.mixture(config) == family.mixture(full)


@pytest.mark.parametrize("says", [False, True])
def test_a_bias_that_the_config_doesnt_speak_of(tmp_path: Path, says: bool) -> None:
    folder = write_llama(tmp_path, attention_bias=not says)
    write_sidecars(folder, llama_config(attention_bias=says))
    with pytest.raises(InputError if says else UnsupportedModelError, match="bias"):
        plan.lay_out(Checkpoint(folder), folder, "test")


def test_a_tied_head_isnt_written_twice(tmp_path: Path) -> None:
    folder = write_llama(tmp_path, tie_word_embeddings=True)
    names = [tensor.name for tensor in plan.lay_out(Merged(Checkpoint(folder), []), folder, "test").tensors]
    assert "token_embd.weight" in names and "output.weight" not in names


@pytest.mark.parametrize(
    ("file", "context"),
    [
        ("Qwen2.5-0.5B-Instruct.config.json", 32768),
        ("SmolLM2-135M.config.json", 8192),
        ("Llama-3.2-1B-Instruct/config.json", 131072),
    ],
)
def test_published_configs_are_taken(data: Path, file: str, context: int) -> None:
    config = json.loads((data / "configs" / file).read_text())
    family = families.find(config, Path("config.json"))
    entries = {entry.key: entry.value for entry in family.metadata(config)}
    assert entries[f"{family.ARCH}.context_length"] == context


def test_qwen_2_5_is_laid_out_as_ollamas_converter_does(data: Path) -> None:
    config = json.loads((data / "configs/Qwen2.5-0.5B-Instruct.config.json").read_text())
    gold = json.loads((data / "configs/gold-gguf/Qwen2.5-0.5B-Instruct.json").read_text())
    hidden, ffn, shared = 896, 4864, 128
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (hidden, hidden), "self_attn.k_proj.weight": (shared, hidden),
        "self_attn.v_proj.weight": (shared, hidden), "self_attn.o_proj.weight": (hidden, hidden),
        "self_attn.q_proj.bias": (hidden,), "self_attn.k_proj.bias": (shared,), "self_attn.v_proj.bias": (shared,),
        "mlp.gate_proj.weight": (ffn, hidden), "mlp.up_proj.weight": (ffn, hidden), "mlp.down_proj.weight": (hidden, ffn),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (151936, hidden),
        "model.norm.weight": (hidden,),
    }
    shapes |= {f"model.layers.{i}.{name}": shape for i in range(24) for name, shape in layer.items()}
    family = families.find(config, Path("config.json"))
    tensors = family.tensors(Shapes(config, shapes))
    expected = {key: float(value) for key, value in gold.items() if key.startswith("qwen2.")}
    found = {entry.key: entry.value for entry in family.metadata(config)}
    assert len(expected) == 8 and found == pytest.approx(expected)
    assert {t.name for t in tensors} == {name for name in gold if name.endswith((".weight", ".bias"))}
