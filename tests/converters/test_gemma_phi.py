"""Gemma, Phi, StableLM and GPT-2: real models' numbers, bytes, and the ways their configs are spelled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.converters import columns
from edgekit.converters.gguf import chunks, families, presets
from tests.converters.cases import CASES
from tests.converters.oracles import Case, add_lora, assert_same_answers, make, to_gguf
from tests.converters.quantizer import assert_same_tensors, quantize
from tests.converters.test_gemma_phi_refusals import CONFIGS, Config, Shapes, metadata


@pytest.mark.parametrize("case", ["phi-3-128k", "stablelm-2-12b", "gemma-2", "gpt-2"])
def test_types_and_bytes_are_those_of_llama_cpp(tmp_path: Path, case: str) -> None:
    make(CASES[case], tmp_path / "base")
    full = to_gguf(tmp_path / "base", tmp_path / "f32.gguf")
    for name in ("Q4_K_M", "Q8_0"):
        ours = to_gguf(tmp_path / "base", tmp_path / f"{name}.gguf", name)
        theirs = tmp_path / f"theirs-{name}.gguf"
        assert quantize(full, theirs, int(presets.PRESETS[name].file_type)) is not None
        assert_same_tensors(ours, theirs)


def test_matrices_stored_in_by_out_are_the_same_a_few_columns_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(CASES["gpt-2"], tmp_path / "base", dtype="bfloat16")
    whole = to_gguf(tmp_path / "base", tmp_path / "whole.gguf", "Q8_0")
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 7 * 64)
    monkeypatch.setattr(columns, "PANEL_BYTES", 5 * 64 * 2)
    pieces = to_gguf(tmp_path / "base", tmp_path / "pieces.gguf", "Q8_0")
    assert pieces.read_bytes() == whole.read_bytes()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT's
def test_gpt2_as_openai_stored_it(tmp_path: Path) -> None:
    """No outer module in the names, the causal mask among the weights; the LoRA names the outer module."""
    from safetensors.numpy import load_file, save_file

    model = make(CASES["gpt-2"], tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    weights = {name.removeprefix("transformer."): array for name, array in load_file(path).items()}
    weights |= {f"h.{layer}.attn.bias": np.tril(np.ones((1, 1, 256, 256), np.float32)) for layer in range(2)}
    save_file(weights, path)
    merged = add_lora(CASES["gpt-2"], model, tmp_path / "lora")
    artifact = to_gguf(tmp_path / "base", tmp_path / "model.gguf", adapter=tmp_path / "lora")
    assert_same_answers(artifact, merged, 384)


@pytest.mark.parametrize(("kind", "layers"), [("Gemma2Config", 46), ("Gemma3TextConfig", 62)])
def test_gemmas_of_27b_scale_queries_by_hidden_size_over_heads(
    tmp_path: Path, kind: str, layers: int
) -> None:
    """llama.cpp knows them by their layers."""
    sizes = {
        "num_hidden_layers": layers,
        "head_dim": 32,
        "query_pre_attn_scalar": 16,
        "intermediate_size": 32,
    }
    model = make(Case(kind, {**sizes, "tie_word_embeddings": True}, half_gelu=True), tmp_path / "base")
    assert_same_answers(to_gguf(tmp_path / "base", tmp_path / "model.gguf"), model, 384)


def test_a_head_apart_from_gpt2s_embedding_is_kept(tmp_path: Path) -> None:
    changes = {"tie_word_embeddings": False, "n_inner": 80}
    case = replace(CASES["gpt-2"], settings={**CASES["gpt-2"].settings, **changes})
    model = make(case, tmp_path / "base")
    assert_same_answers(to_gguf(tmp_path / "base", tmp_path / "model.gguf"), model, 384)


def test_phi_answers_within_a_window_only() -> None:
    """llama.cpp doesn't apply Phi's window: the context that the file states ends with it."""
    assert metadata(CONFIGS["phi3"] | {"sliding_window": 100})["phi3.context_length"] == 100
    assert metadata(CONFIGS["phi3"] | {"sliding_window": 262144})["phi3.context_length"] == 256
    none = metadata(CONFIGS["phi3"] | {"sliding_window": None})
    assert (none["phi3.context_length"], none["phi3.attention.sliding_window"]) == (256, 0)


def test_gemma_3s_rotations_in_either_spelling() -> None:
    old = {
        "rope_theta": 5e5,
        "rope_local_base_freq": 2e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    new = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    found = metadata(CONFIGS["gemma3"] | old)
    assert found == metadata(CONFIGS["gemma3"] | {"rope_parameters": new})
    assert (found["gemma3.rope.freq_base"], found["gemma3.rope.freq_base_swa"]) == (5e5, 2e4)
    assert found["gemma3.rope.scaling.factor"] == 8.0
    assert metadata(CONFIGS["gemma3"])["gemma3.rope.freq_base"] == 1e6


@pytest.mark.parametrize("change", [{"sliding_window_pattern": 1}, {"layer_types": ["full_attention"] * 2}])
def test_gemma_3_without_windows(change: Config) -> None:
    assert not [key for key in metadata(CONFIGS["gemma3"] | change) if "sliding" in key or "swa" in key]


def test_what_a_gemma_config_leaves_out_is_what_transformers_takes() -> None:
    transformers = pytest.importorskip("transformers")
    for name, kind in (("gemma", "GemmaConfig"), ("gemma2", "Gemma2Config"), ("gemma3", "Gemma3TextConfig")):
        left_out = {
            "head_dim",
            "max_position_embeddings",
            "rms_norm_eps",
            "sliding_window",
            "query_pre_attn_scalar",
        }
        short = {key: value for key, value in CONFIGS[name].items() if key not in left_out}
        written = getattr(transformers, kind)(**short).to_dict() | {"architectures": short["architectures"]}
        assert metadata(short) == metadata(written)


def gemma_2_2b() -> Shapes:
    """Gemma 2 2B's published numbers."""
    hidden, ffn, heads, shared, size = 2304, 9216, 8, 4, 256
    config = {
        "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "vocab_size": 256000, "hidden_size": hidden,
        "intermediate_size": ffn, "num_hidden_layers": 26, "num_attention_heads": heads,
        "num_key_value_heads": shared, "head_dim": size, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
        "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "rope_theta": 10000.0,
    }  # fmt: skip
    layer = {
        "self_attn.q_proj": (heads * size, hidden), "self_attn.k_proj": (shared * size, hidden),
        "self_attn.v_proj": (shared * size, hidden), "self_attn.o_proj": (hidden, heads * size),
        "mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden), "mlp.down_proj": (hidden, ffn),
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        "pre_feedforward_layernorm": (hidden,), "post_feedforward_layernorm": (hidden,),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (256000, hidden),
        "model.norm.weight": (hidden,),
    }
    shapes |= {f"model.layers.{i}.{name}.weight": shape for i in range(26) for name, shape in layer.items()}
    return Shapes(config, shapes)


def test_gemma_2_2b_is_laid_out_as_ollamas_converter_does(data: Path) -> None:
    gold = json.loads((data / "configs/gold-gguf/gemma-2-2b-it.json").read_text())
    source = gemma_2_2b()
    family = families.find(source.config, Path("config.json"))
    found, mapped = metadata(dict(source.config)), family.tensors(source)
    keys = {key: value for key, value in gold.items() if key.startswith("gemma2.")}
    assert len(keys) == 9
    assert {key: found[key] for key in keys} == pytest.approx({key: float(v) for key, v in keys.items()})
    assert {tensor.name for tensor in mapped} == {name for name in gold if name.endswith(".weight")}
    families.check_consumed(source, set().union(*(t.sources for t in mapped)), family, Path("config.json"))
    # What llama.cpp needs besides, which it would default otherwise.
    assert found["gemma2.attn_logit_softcapping"] == 50.0
    assert found["gemma2.attention.sliding_window"] == 4096


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            "Phi-3-mini-128k/config.json",
            {
                "phi3.context_length": 131072, "phi3.rope.scaling.original_context_length": 4096,
                "phi3.rope.dimension_count": 96, "phi3.attention.sliding_window": 262144,
                "phi3.rope.scaling.attn_factor": 1.190238,
            },
        ),
        (
            "Phi-3-mini-4k-instruct.config.json",
            {"phi3.context_length": 2047, "phi3.attention.sliding_window": 2047, "phi3.attention.head_count_kv": 32},
        ),
        (
            "Phi-4-mini/config.json",
            {"phi3.rope.dimension_count": 96, "phi3.attention.head_count_kv": 8, "phi3.context_length": 131072},
        ),
        (
            "gemma-3-270m.config.json",
            {
                "gemma3.rope.freq_base": 1e6, "gemma3.rope.freq_base_swa": 1e4, "gemma3.attention.sliding_window": 512,
                "gemma3.attention.key_length": 256, "gemma3.block_count": 18,
            },
        ),
    ],
)  # fmt: skip
def test_real_configs(data: Path, config: str, expected: Config) -> None:
    found = metadata(json.loads((data / "configs" / config).read_text()))
    assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_phi_4_minis_tensors_all_have_a_place(data: Path) -> None:
    folder = data / "configs" / "Phi-4-mini"
    skeleton = json.loads((folder / "weights_skeleton.json").read_text())
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 1}
    source = Shapes(config, {name: tuple(shape) for name, shape in skeleton["tensors"].items()})
    family = families.find(config, folder)
    mapped = {tensor.name: tensor for tensor in family.tensors(source)}
    families.check_consumed(source, set().union(*(t.sources for t in mapped.values())), family, folder)
    assert "output.weight" not in mapped
    long = mapped["rope_factors_long.weight"].values
    assert long is not None and long.tolist() == np.float32(config["rope_scaling"]["long_factor"]).tolist()
