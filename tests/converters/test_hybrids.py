"""Decoders with layers of several kinds: types as llama.cpp's, order of heads, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import chunks, families, plan, presets, stream
from edgekit.converters.gguf.delta_net import Decay, Tiled
from edgekit.errors import EdgekitError, InputError, UnsupportedModelError
from edgekit.tensors import Float32
from tests.converters.quantizer import quantize
from tests.models import save, write_sidecars

SIZES: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 9, "num_attention_heads": 4,
    "num_key_value_heads": 1, "vocab_size": 384, "max_position_embeddings": 256, "head_dim": 64,
    "bos_token_id": 379, "eos_token_id": 380,
}  # fmt: skip
LFM2 = SIZES | {
    "architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "block_auto_adjust_ff_dim": False,
    "full_attn_idxs": [1, 3, 4, 8],
}  # fmt: skip
QWEN = SIZES | {
    "architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "linear_key_head_dim": 32,
    "linear_value_head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 8,
}  # fmt: skip


def lfm2_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (384, 256),
        "model.embedding_norm.weight": (256,),
    }
    for layer in range(9):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}{name}.weight": (256,) for name in ("operator_norm", "ffn_norm")}
        shapes |= {f"{prefix}feed_forward.{name}.weight": (256, 256) for name in ("w1", "w2", "w3")}
        if layer in LFM2["full_attn_idxs"]:
            shapes |= {f"{prefix}self_attn.{name}_layernorm.weight": (64,) for name in "qk"}
            shapes |= {f"{prefix}self_attn.{name}_proj.weight": (64, 256) for name in "kv"}
            shapes |= {f"{prefix}self_attn.{name}_proj.weight": (256, 256) for name in ("q", "out")}
        else:
            shapes[f"{prefix}conv.conv.weight"] = (256, 1, 3)
            shapes[f"{prefix}conv.in_proj.weight"] = (768, 256)
            shapes[f"{prefix}conv.out_proj.weight"] = (256, 256)
    return shapes


def qwen_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (384, 256),
        "model.norm.weight": (256,),
    }
    shapes["lm_head.weight"] = (384, 256)
    for layer in range(9):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}{name}_layernorm.weight": (256,) for name in ("input", "post_attention")}
        shapes |= {f"{prefix}mlp.{name}_proj.weight": (256, 256) for name in ("gate", "up", "down")}
        if layer % 4 == 3:
            rows = {"q": 512, "k": 64, "v": 64, "o": 256}
            shapes |= {f"{prefix}self_attn.{name}_proj.weight": (n, 256) for name, n in rows.items()}
            shapes |= {f"{prefix}self_attn.{name}_norm.weight": (64,) for name in "qk"}
            continue
        linear: dict[str, tuple[int, ...]] = {
            "A_log": (8,), "dt_bias": (8,), "norm.weight": (32,), "conv1d.weight": (384, 1, 4),
            "in_proj_qkv.weight": (384, 256), "in_proj_z.weight": (256, 256), "in_proj_a.weight": (8, 256),
            "in_proj_b.weight": (8, 256), "out_proj.weight": (256, 256),
        }  # fmt: skip
        shapes |= {f"{prefix}linear_attn.{name}": shape for name, shape in linear.items()}
    return shapes


MODELS = {"lfm2": (LFM2, lfm2_shapes()), "qwen3.5": (QWEN, qwen_shapes())}


def random(shapes: dict[str, tuple[int, ...]]) -> dict[str, Float32]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder: Path, config: dict[str, Any], arrays: dict[str, Float32]) -> Path:
    write_sidecars(folder, config)
    save(folder / "model.safetensors", arrays)
    return folder


def convert(folder: Path, target: Path, preset: str = "F32") -> dict[str, gguf.gguf_reader.ReaderTensor]:
    layout = plan.lay_out(Checkpoint(folder), folder, "test")
    stream.write([plan.plan(layout, presets.preset(preset))], [target], 2)
    return {tensor.name: tensor for tensor in gguf.GGUFReader(target).tensors}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("preset", ["F16", "Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M"])
def test_types_and_bytes_are_those_of_llama_cpp(tmp_path: Path, model: str, preset: str) -> None:
    folder = write(tmp_path / "m", MODELS[model][0], random(MODELS[model][1]))
    convert(folder, tmp_path / "f32.gguf")
    ours = convert(folder, tmp_path / "ours.gguf", preset)
    quantize(tmp_path / "f32.gguf", tmp_path / "theirs.gguf", int(presets.PRESETS[preset].file_type))
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "theirs.gguf").tensors}
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.tensor_type == theirs[name].tensor_type, name
        assert np.array_equal(tensor.data, theirs[name].data), name
    kept = "blk.0.shortconv.conv.weight" if model == "lfm2" else "blk.0.ssm_conv1d.weight"
    assert ours[kept].tensor_type.name == "F32"


def test_value_heads_are_read_in_llama_cpps_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 1024)
    arrays = random(qwen_shapes())
    found = convert(write(tmp_path / "m", QWEN, arrays), tmp_path / "m.gguf")
    prefix = "model.layers.0.linear_attn."
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    assert np.array_equal(found["blk.0.ssm_beta.weight"].data, arrays[f"{prefix}in_proj_b.weight"][order])
    channels = [*range(128), *(128 + 32 * head + i for head in order for i in range(32))]
    assert np.array_equal(
        found["blk.0.attn_qkv.weight"].data, arrays[f"{prefix}in_proj_qkv.weight"][channels]
    )
    columns = [32 * head + i for head in order for i in range(32)]
    assert np.array_equal(found["blk.0.ssm_out.weight"].data, arrays[f"{prefix}out_proj.weight"][:, columns])
    decay = -np.exp(arrays[f"{prefix}A_log"][order].astype(np.float64))
    assert np.array_equal(found["blk.0.ssm_a"].data, decay.astype(np.float32))
    norm = arrays["model.layers.0.input_layernorm.weight"]
    assert np.array_equal(found["blk.0.attn_norm.weight"].data, norm + np.float32(1))


@pytest.mark.parametrize("order", [Tiled, Decay])
def test_as_many_value_heads_as_key_heads_keep_their_order(order: type[Tiled]) -> None:
    heads = np.arange(12, dtype=np.float32)
    assert np.argsort(np.abs(order(3, 3, 4)(heads)), kind="stable").tolist() == list(range(12))


def test_layers_may_be_given_by_either_name() -> None:
    kinds = ["full_attention" if i in LFM2["full_attn_idxs"] else "conv" for i in range(9)]
    old, new = (
        families.find(config, Path()).metadata(config)
        for config in (LFM2, LFM2 | {"full_attn_idxs": None, "layer_types": kinds})
    )
    assert old == new
    heads = next(entry.value for entry in old if entry.key.endswith("head_count_kv"))
    assert heads == [0, 1, 0, 1, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"block_ff_dim": 300}, 300),
        ({"block_auto_adjust_ff_dim": True, "block_multiple_of": 64}, 192),
        ({"block_ffn_dim_multiplier": 2.0}, 256),
        ({"block_auto_adjust_ff_dim": True, "block_ffn_dim_multiplier": 2.0, "block_multiple_of": 10}, 340),
    ],
)
def test_lfm2s_feed_forward_is_sized_as_transformers_does(changes: dict[str, Any], size: int) -> None:
    transformers = pytest.importorskip("transformers")
    config = LFM2 | changes
    found = {entry.key: entry.value for entry in families.find(config, Path()).metadata(config)}
    assert found["lfm2.feed_forward_length"] == size
    module = transformers.models.lfm2.modeling_lfm2.Lfm2MLP(transformers.Lfm2Config(**config))
    assert module.w1.weight.shape[0] == size


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (LFM2, {"conv_bias": True}, "biases"),
        (LFM2, {"conv_L_cache": 1}, "over one token"),
        (LFM2, {"head_dim": 32}, "head size apart"),
        (LFM2, {"full_attn_idxs": None}, "layers of another kind"),
        (LFM2, {"full_attn_idxs": []}, "layers of another kind"),
        (LFM2, {"layer_types": ["conv"] * 8 + ["sliding_attention"]}, "layers of another kind"),
        (LFM2, {"layer_types": ["conv", "full_attention"]}, "layers of another kind"),
        (LFM2, {"rope_scaling": {"rope_type": "llama3"}}, "rope scaling"),
        (QWEN, {"attention_bias": True}, "biases"),
        (QWEN, {"linear_value_head_dim": 16}, "pair"),
        (QWEN, {"linear_num_value_heads": 5}, "pair"),
        (QWEN, {"layer_types": ["linear_attention"] * 9}, "layers of another kind"),
        (QWEN, {"partial_rotary_factor": 0.05}, "part of a head"),
        (QWEN, {"rope_parameters": {"partial_rotary_factor": 2.0}}, "part of a head"),
        (QWEN, {"rope_parameters": {"mrope_section": [11, 11]}}, "sections"),
        (QWEN, {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling"),
        (QWEN, {"hidden_act": "gelu"}, "another activation"),
    ],
)
def test_configs_that_would_convert_wrong_are_refused(
    config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    families.find(config, Path("config.json"))
    with pytest.raises(EdgekitError, match=message):
        families.find(config | changes, Path("config.json"))


@pytest.mark.parametrize("model", MODELS)
def test_tensors_of_the_wrong_kind_of_layer_are_refused(tmp_path: Path, model: str) -> None:
    config, shapes = MODELS[model]
    kinds = {"full_attn_idxs": [1, 3, 8]} if model == "lfm2" else {"full_attention_interval": 3}
    folder = write(tmp_path / "m", config | kinds, random(shapes))
    with pytest.raises(InputError, match="is missing"):
        plan.lay_out(Checkpoint(folder), folder, "test")


def test_layers_that_predict_further_tokens_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", QWEN, random(qwen_shapes() | {"mtp.fc.weight": (256, 512)}))
    with pytest.raises(UnsupportedModelError, match="no place"):
        plan.lay_out(Checkpoint(folder), folder, "test")
