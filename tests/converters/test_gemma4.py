"""Gemma 4: its two ways of writing a config, what llama.cpp would compute otherwise, and its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from edgekit.converters.gguf import families, gemma4, plan, presets
from edgekit.converters.text_model import open_model
from edgekit.errors import EdgekitError, InputError, UnsupportedModelError
from edgekit.plan import artifact
from tests import vocabularies
from tests.converters.cases import CASES
from tests.converters.oracles import make, to_gguf
from tests.converters.quantizer import assert_same_tensors, quantize
from tests.converters.test_gemma_phi_refusals import Shapes, metadata
from tests.converters.test_spm import GEMMA_SPLIT, PREPEND, REPLACE, SPACE, added, trained, write

Config = dict[str, Any]
LOCAL, FULL = "sliding_attention", "full_attention"
ROPE = {
    LOCAL: {"rope_type": "default", "rope_theta": 1e4},
    FULL: {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
}
CONFIG: Config = {
    "architectures": ["Gemma4ForCausalLM"], "vocab_size": 384, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "head_dim": 16, "global_head_dim": 32, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 384,
    "layer_types": [LOCAL, LOCAL, FULL] * 2, "num_kv_shared_layers": 3, "use_double_wide_mlp": True,
    "rope_parameters": ROPE,
}  # fmt: skip


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """What transformers would save for a config."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    own = {key: value for key, value in config.items() if key != "architectures"}
    with torch.device("meta"):
        model = transformers.Gemma4ForCausalLM(transformers.Gemma4TextConfig(**own, pad_token_id=None))
    return {name: tuple(t.shape) for name, t in model.state_dict().items() if name != "lm_head.weight"}


def changed(path: tuple[str, ...], value: object) -> Config:
    """The config with one entry, named by the way to it, set to ``value``."""
    config: Config = json.loads(json.dumps(CONFIG))
    part = config
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return config


def test_sizes_by_published_keys_and_by_single_layers_are_the_same() -> None:
    published = {**CONFIG, "attention_k_eq_v": True, "num_global_key_value_heads": 1}
    own = {"head_dim": 32, "num_key_value_heads": 1}
    saved = {**CONFIG, "attention_k_eq_v": True, "per_layer_config": {"2": own, "5": own}}
    del saved["global_head_dim"]
    found = metadata(published)
    assert found == metadata(saved)
    assert found["gemma4.attention.head_count_kv"] == [2, 2, 1, 2, 2, 1]
    assert found["gemma4.feed_forward_length"] == [96, 96, 96, 192, 192, 192]
    assert "gemma4.attention.head_count_kv" in metadata({**CONFIG, "num_global_key_value_heads": 1})
    assert metadata({**CONFIG, "num_global_key_value_heads": 1})["gemma4.attention.head_count_kv"] == 2


def test_the_cache_is_sized_by_layer(tmp_path: Path) -> None:
    """Layers 0 and 1 have two heads of 16, layer 2 two of 32; the others store nothing. Feed-forwards differ too."""
    make(CASES["gemma-4-e2b"], tmp_path)
    with closing(open_model(tmp_path)) as model:
        layout = plan.lay_out(model, tmp_path, "test")
        shape = artifact(plan.plan(layout, presets.preset("F32"), [], None, None)).shape
    assert [width for width in shape.kv_widths if width] == [2 * 2 * 16, 2 * 2 * 16, 2 * 2 * 32]
    assert shape.ffn == 192 and shape.trained == 256


@pytest.mark.parametrize("preset", ["Q8_0", "Q4_K_M", "Q2_K"])
def test_types_and_bytes_of_experts_are_those_of_llama_cpp(tmp_path: Path, preset: str) -> None:
    make(CASES["gemma-4-26b-a4b"], tmp_path / "base")
    full = to_gguf(tmp_path / "base", tmp_path / "f32.gguf")
    ours = to_gguf(tmp_path / "base", tmp_path / "ours.gguf", preset)
    quantize(full, tmp_path / "theirs.gguf", int(presets.PRESETS[preset].file_type))
    assert_same_tensors(ours, tmp_path / "theirs.gguf")


EXPERTS: Config = {
    **CONFIG, "hidden_size_per_layer_input": 0, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2,
    "moe_intermediate_size": 48,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_experts": 1}, "number of experts"),
        ({"top_k_experts": 5}, "number of experts"),
        ({"top_k_experts": None}, "num_experts_per_tok"),
        ({"moe_intermediate_size": None}, "moe_intermediate_size"),
    ],
)
def test_experts_that_llama_cpp_does_not_run_are_refused(changes: Config, reason: str) -> None:
    assert metadata(EXPERTS)["gemma4.expert_used_count"] == 2
    with pytest.raises(EdgekitError, match=reason):
        metadata({**EXPERTS, **changes})


def test_experts_are_read_a_chunk_of_one_at_a_time() -> None:
    source = Shapes(EXPERTS, shapes(EXPERTS))
    stacks = [tensor for tensor in gemma4.tensors(source) if "_exps.weight" in tensor.name]
    assert {tensor.name.split(".")[2] for tensor in stacks} == {"ffn_gate_up_exps", "ffn_down_exps"}
    assert all(tensor.unit == 1 and tensor.transform is None for tensor in stacks)


def test_a_silent_config_means_transformers_defaults() -> None:
    transformers = pytest.importorskip("transformers")
    own = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    said = {key: CONFIG[key] for key in own} | {"vocab_size": 262_144}
    full = transformers.Gemma4TextConfig(**said).to_dict()
    architecture = {"architectures": CONFIG["architectures"]}
    assert metadata({**said, **architecture}) == metadata({**full, **architecture})


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("enable_moe_block",), True, "num_local_experts"),
        (("enable_moe_block",), "yes", "enable_moe_block"),
        (("attention_bias",), True, "attention_bias"),
        (("use_bidirectional_attention",), "all", "use_bidirectional_attention"),
        (("hidden_activation",), "silu", "activation"),
        (("layer_types",), [LOCAL] * 6, "layers of another kind"),
        (("layer_types",), [FULL, LOCAL, LOCAL] * 2, "layers of another kind"),
        (("layer_types",), [LOCAL, FULL], "layers of another kind"),
        (("num_kv_shared_layers",), 2, "share the keys and values of others"),
        (("num_kv_shared_layers",), 5, "share the keys and values of others"),
        (("num_kv_shared_layers",), 6, "num_kv_shared_layers"),
        (("num_kv_shared_layers",), True, "num_kv_shared_layers"),
        (("per_layer_config",), {"2": {"head_dim": 32}}, "layers that differ"),
        (("per_layer_config",), {"2": {"sliding_window": 3}}, "single layers"),
        (("per_layer_config",), {"9": {"head_dim": 32}}, "single layers"),
        (("per_layer_config",), [1], "single layers"),
        (("vocab_size_per_layer_input",), 300, "vocab_size_per_layer_input"),
        (("hidden_size_per_layer_input",), -1, "hidden_size_per_layer_input"),
        (("final_logit_softcapping",), -1.0, "final_logit_softcapping"),
        (("attention_k_eq_v",), "yes", "attention_k_eq_v"),
        (("global_head_dim",), 33, "odd head size"),
        (("num_key_value_heads",), 3, "evenly"),
        (("rope_parameters",), {"rope_type": "default"}, "by kind of layer"),
        (("rope_parameters", FULL, "rope_type"), "linear", "rope scaling"),
        (("rope_parameters", FULL, "factor"), 2.0, "factor is set"),
        (("rope_parameters", FULL, "partial_rotary_factor"), 1.5, "part of a head"),
        (("rope_parameters", LOCAL, "rope_type"), "yarn", "rope scaling"),
        (("rope_parameters", LOCAL, "partial_rotary_factor"), 0.5, "partial_rotary_factor is set"),
        (("rope_parameters", LOCAL, "rope_theta"), 0, "rope_theta"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    path: tuple[str, ...], value: object, reason: str
) -> None:
    assert metadata(CONFIG)
    with pytest.raises(EdgekitError, match=reason) as caught:
        metadata(changed(path, value))
    assert isinstance(caught.value, InputError | UnsupportedModelError)


def used(config: Config, more: Mapping[str, tuple[int, ...]]) -> set[str]:
    """The checkpoint's tensors that the family takes, all of them, or ``UnsupportedModelError``."""
    source = Shapes(config, {**shapes(config), **more})
    found = set().union(*(tensor.sources for tensor in gemma4.tensors(source)))
    families.check_consumed(source, found, gemma4, Path("."))
    return found


def test_keys_and_values_that_nothing_reads_are_kept_where_they_are() -> None:
    left = {
        "model.layers.3.self_attn.k_proj.weight": (32, 64),
        "model.layers.5.self_attn.k_norm.weight": (32,),
    }
    assert not left.keys() & used(CONFIG, {})
    assert left.keys() <= used(CONFIG, left)


def test_values_beside_keys_that_are_them_are_refused() -> None:
    config = {**CONFIG, "attention_k_eq_v": True}
    used(config, {})
    with pytest.raises(UnsupportedModelError, match="no place"):
        used(config, {"model.layers.2.self_attn.v_proj.weight": (64, 64)})


def vocabulary(folder: Path, **changes: Any) -> tuple[Config, int]:
    """A tokenizer.json in Gemma's form; two merges of it make one piece, with another between them."""
    content = trained(REPLACE, GEMMA_SPLIT) | changes
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    runes = [["ᚠᚢ", "ᚦ"], ["ᚢ", "ᚦ"], ["ᚢᚦ", "ᚨ"], ["ᚠ", "ᚢᚦ"], ["ᚠ", "ᚢ"], ["\n", "\n"], [SPACE, SPACE]]
    for piece in [*"ᚠᚢᚦᚨ\n", SPACE, *map("".join, runes)]:
        vocab.setdefault(piece, len(vocab))
    content["model"]["merges"] = [*runes, *(pair for pair in merges if "\n" not in pair[0] + pair[1])]
    content["added_tokens"].append(added(len(vocab), "<|channel>"))
    content["added_tokens"].append(added(len(vocab) + 1, "<turn|>"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    return content, write(folder, content)


def test_the_tokenizer_is_proved_where_sentencepieces_is_not(tmp_path: Path) -> None:
    _, size = vocabulary(tmp_path)
    config = {"architectures": CONFIG["architectures"], "eos_token_id": size - 9}
    found = vocabularies.read(tmp_path, size, **config)
    keys = {entry.key.removeprefix("tokenizer.ggml.") for entry in found.entries()}
    assert found.model == "gemma4" and "pre" not in keys and {"merges", "scores"} <= keys
    assert found.add["bos"] and found.flags == {"add_space_prefix": False} and set(found.scores) == {-1000.0}
    assert found.types[size - 10] == TokenType.USER_DEFINED and found.types[size - 9] == TokenType.CONTROL
    more = ["ᚠᚢᚦᚨ", "a  b   c", "a\n\n\n\n\nb", "\n" * 40, f"a{SPACE}b", "naïve 🦙 ᛟ"]
    proved = vocabularies.prove(found, tmp_path, tmp_path, more=more)
    assert proved.mismatch is None and size - 9 in proved.end_ids
    other = vocabularies.read(tmp_path, size)
    assert other.model == "llama"
    runes, without = (vocabularies.prove(other, tmp_path, tmp_path, more=m) for m in (more[:1], ()))
    assert runes.mismatches == without.mismatches + 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}}, "no space before text"),
        ({"bos": None}, "begins Gemma 4's texts with a bos"),
        ({"merge": ["a", " "]}, "merges that llama.cpp"),
        ({"merge": ["\r", "\n"]}, "merges that llama.cpp"),
    ],
)
def test_other_tokenizers_of_gemma_4_are_refused(changes: Config, reason: str, tmp_path: Path) -> None:
    content, _ = vocabulary(tmp_path, **{key: changes[key] for key in changes if key == "normalizer"})
    if "bos" in changes:
        (tmp_path / "tokenizer_config.json").unlink()
    if merge := changes.get("merge"):
        for piece in (*merge, "".join(merge)):
            content["model"]["vocab"].setdefault(piece, len(content["model"]["vocab"]) + 2)
        content["model"]["merges"].append(merge)
    size = write(tmp_path, content)
    with pytest.raises(UnsupportedModelError, match=reason):
        vocabularies.read(tmp_path, size, architectures=CONFIG["architectures"])
