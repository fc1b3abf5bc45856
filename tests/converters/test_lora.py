"""The oracle is PEFT: every merged tensor equals merge_and_unload's in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.converters.adapter import Adapter
from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.lora import Merged
from edgekit.errors import AdapterError
from tests.models import attention_modules, llama_config, lora_arrays, write_adapter, write_llama

TOLERANCE = 1e-6


def merged(base: Path, *adapters: tuple[Path, float]) -> Merged:
    return Merged(Checkpoint(base), [(Adapter(folder), weight) for folder, weight in adapters])


def peft_merge(base: Path, *adapters: tuple[Path, float], untie: bool = False) -> dict[str, Any]:
    """PEFT's state after merging; ``untie`` clones the head first, as PEFT's own warning advises."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if untie:
            model.config.tie_word_embeddings = False
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        names = []
        for number, (folder, weight) in enumerate(adapters):
            names.append(f"a{number}")
            if number == 0:
                model = peft.PeftModel.from_pretrained(model, folder, adapter_name=names[-1])
            else:
                model.load_adapter(folder, adapter_name=names[-1])
            if weight != 1.0:
                for module in model.modules():
                    if hasattr(module, "set_scale") and names[-1] in getattr(module, "scaling", {}):
                        module.set_scale(names[-1], weight)
        model.base_model.set_adapter(names)
        model = model.merge_and_unload()
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def assert_same(ours: Merged, theirs: dict[str, Any]) -> None:
    for name in ours.names():
        expected = theirs[name]
        worst = np.abs(ours.read(name) - expected).max()
        assert worst <= TOLERANCE * np.abs(expected).max(), f"{name}: {worst}"


ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def all_modules(layers: int) -> list[str]:
    return attention_modules(layers, tuple(ALL_LINEAR[:4])) + [
        f"model.layers.{i}.mlp.{kind}" for i in range(layers) for kind in ALL_LINEAR[4:]
    ]


def test_real_adapter_on_the_real_base(base: Path, adapter: Path) -> None:
    ours = merged(base, (adapter, 1.0))
    assert len(ours.changed) == 7 * 8
    assert not ours.untied
    assert_same(ours, peft_merge(base, (adapter, 1.0)))


def test_real_rslora_adapter(base: Path, data: Path) -> None:
    card = data / "models" / "tiny-extract-card-lora"
    assert_same(merged(base, (card, 1.0)), peft_merge(base, (card, 1.0)))


@pytest.mark.parametrize("rslora", [False, True])
def test_all_linear_layers(tmp_path: Path, rslora: bool) -> None:
    base = write_llama(tmp_path / "base")
    arrays = lora_arrays(llama_config(), all_modules(2))
    adapter = write_adapter(tmp_path / "lora", arrays, target_modules=ALL_LINEAR, use_rslora=rslora)
    ours = merged(base, (adapter, 1.0))
    scale = 8 / 2 if rslora else 8 / 4
    name = "model.layers.0.mlp.down_proj"
    product = arrays[f"{name}.lora_B.weight"] @ arrays[f"{name}.lora_A.weight"]
    expected = Checkpoint(base).read(f"{name}.weight") + scale * product
    np.testing.assert_allclose(ours.read(f"{name}.weight"), expected, rtol=1e-5, atol=1e-6)
    assert_same(ours, peft_merge(base, (adapter, 1.0)))


def test_rank_and_alpha_patterns(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    config = llama_config()
    arrays = lora_arrays(config, ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"])
    arrays |= lora_arrays(config, ["model.layers.1.self_attn.q_proj"], rank=2)
    arrays |= lora_arrays(config, ["model.layers.1.self_attn.v_proj"], rank=6)
    adapter = write_adapter(
        tmp_path / "lora",
        arrays,
        rank_pattern={r"layers\.1\.self_attn\.q_proj": 2, "model.layers.1.self_attn.v_proj": 6},
        alpha_pattern={"v_proj": 3, r".*1\.self_attn\.q_proj": 32},
    )
    assert_same(merged(base, (adapter, 1.0)), peft_merge(base, (adapter, 1.0)))


def test_layers_to_transform(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    modules = ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
    adapter = write_adapter(
        tmp_path / "lora",
        lora_arrays(llama_config(), modules),
        layers_to_transform=[1],
        layers_pattern="layers",
    )
    ours = merged(base, (adapter, 1.0))
    assert ours.changed == tuple(f"{module}.weight" for module in modules)
    assert_same(ours, peft_merge(base, (adapter, 1.0)))


def test_several_adapters_with_weights(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    one = write_adapter(tmp_path / "one", lora_arrays(llama_config(), attention_modules(2)))
    kinds = ("q_proj", "o_proj")
    other = write_adapter(
        tmp_path / "two",
        lora_arrays(llama_config(), attention_modules(2, kinds), rank=8, seed=5),
        r=8,
        target_modules=list(kinds),
    )
    pair = ((one, 0.7), (other, -0.3))
    assert_same(merged(base, *pair), peft_merge(base, *pair))


def test_saved_head_and_embeddings(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    arrays = lora_arrays(llama_config(), attention_modules(2))
    rng = np.random.default_rng(9)
    arrays["lm_head.weight"] = rng.standard_normal((384, 64)).astype(np.float32)
    arrays["model.embed_tokens.weight"] = rng.standard_normal((384, 64)).astype(np.float32)
    adapter = write_adapter(tmp_path / "lora", arrays, modules_to_save=["lm_head", "embed_tokens"])
    assert_same(merged(base, (adapter, 1.0)), peft_merge(base, (adapter, 1.0)))


@pytest.mark.parametrize("saved", ["lm_head.weight", "model.embed_tokens.weight"])
def test_saving_one_of_two_tied_unties_them(tmp_path: Path, saved: str) -> None:
    base = write_llama(tmp_path / "base", tie_word_embeddings=True)
    arrays = lora_arrays(llama_config(tie_word_embeddings=True), attention_modules(2))
    arrays[saved] = np.random.default_rng(9).standard_normal((384, 64)).astype(np.float32)
    adapter = write_adapter(tmp_path / "lora", arrays, modules_to_save=[saved.rsplit(".", 2)[-2]])
    ours = merged(base, (adapter, 1.0))
    assert ours.untied and ours.config["tie_word_embeddings"] is False
    assert "lm_head.weight" in ours.names()
    theirs = peft_merge(base, (adapter, 1.0))
    assert_same(ours, theirs)
    assert not np.array_equal(theirs["lm_head.weight"], theirs["model.embed_tokens.weight"])


def test_lora_on_a_tied_head_leaves_the_embedding_alone(tmp_path: Path) -> None:
    """PEFT's plain merge would change both through their shared storage; its warning says to untie first."""
    base = write_llama(tmp_path / "base", tie_word_embeddings=True)
    rng = np.random.default_rng(2)
    arrays = {
        "lm_head.lora_A.weight": rng.standard_normal((4, 64)).astype(np.float32),
        "lm_head.lora_B.weight": rng.standard_normal((384, 4)).astype(np.float32),
    }
    adapter = write_adapter(tmp_path / "lora", arrays, target_modules=["lm_head"])
    ours = merged(base, (adapter, 1.0))
    assert ours.untied
    embedding = Checkpoint(base).read("model.embed_tokens.weight")
    assert np.array_equal(ours.read("model.embed_tokens.weight"), embedding)
    assert_same(ours, peft_merge(base, (adapter, 1.0), untie=True))


def test_fan_in_fan_out_on_conv1d(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=32, vocab_size=64)
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    rng = np.random.default_rng(3)
    arrays = {}
    for i in range(2):
        arrays[f"transformer.h.{i}.attn.c_attn.lora_A.weight"] = rng.standard_normal((4, 32)).astype(
            np.float32
        )
        arrays[f"transformer.h.{i}.attn.c_attn.lora_B.weight"] = rng.standard_normal((96, 4)).astype(
            np.float32
        )
    adapter = write_adapter(tmp_path / "lora", arrays, target_modules=["c_attn"], fan_in_fan_out=True)
    ours = merged(tmp_path / "base", (adapter, 1.0))
    assert len(ours.changed) == 2
    assert_same(ours, peft_merge(tmp_path / "base", (adapter, 1.0)))


def test_rows_are_the_rows_of_the_whole(base: Path, adapter: Path) -> None:
    ours = merged(base, (adapter, 1.0))
    name = "model.layers.3.mlp.down_proj.weight"
    out = np.empty((7, 768), np.float32)
    assert ours.read(name, slice(5, 12), out) is out
    np.testing.assert_allclose(out, ours.read(name)[5:12], rtol=1e-6, atol=1e-7)


def test_embeddings_saved_unasked_are_refused_where_they_are_tied(tmp_path: Path) -> None:
    arrays = lora_arrays(llama_config(), attention_modules(2))
    arrays["model.embed_tokens.weight"] = np.ones((384, 64), np.float32)
    adapter = write_adapter(tmp_path / "lora", arrays)
    untied = write_llama(tmp_path / "untied")
    assert_same(merged(untied, (adapter, 1.0)), peft_merge(untied, (adapter, 1.0)))
    tied = write_llama(tmp_path / "tied", tie_word_embeddings=True)
    with pytest.raises(AdapterError, match="not in modules_to_save"):
        merged(tied, (adapter, 1.0))
