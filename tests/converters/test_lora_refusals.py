"""Adapters that no merge would do right: refused, with everything that is wrong about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.converters.adapter import Adapter
from edgekit.errors import AdapterError
from tests.converters.adapters import merged
from tests.models import attention_modules, llama_config, lora_arrays, write_adapter, write_llama


def test_what_does_not_fit_is_refused_with_everything_listed(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    other = llama_config(hidden_size=128, num_attention_heads=8)
    adapter = write_adapter(tmp_path / "lora", lora_arrays(other, attention_modules(2)))
    with pytest.raises(AdapterError, match="can't be merged") as caught:
        merged(base, (adapter, 1.0))
    assert "(128, 128) weight, the base has (64, 64)" in str(caught.value)


def test_stray_missing_and_untargeted_tensors_are_refused(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    config = llama_config()
    full = lora_arrays(config, attention_modules(2))
    stray = full | {"model.layers.0.self_attn.q_proj.lora_magic": np.ones(3, np.float32)}
    with pytest.raises(AdapterError, match="nothing consumes tensor .*lora_magic"):
        merged(base, (write_adapter(tmp_path / "stray", stray), 1.0))
    half = {name: array for name, array in full.items() if "layers.0" in name}
    with pytest.raises(AdapterError, match="is targeted, but the adapter has no weights"):
        merged(base, (write_adapter(tmp_path / "half", half), 1.0))
    more = full | lora_arrays(config, attention_modules(2, ("k_proj",)))
    with pytest.raises(AdapterError, match="k_proj: has weights, but the configuration does not target it"):
        merged(base, (write_adapter(tmp_path / "more", more), 1.0))
    one_sided = {
        name: array for name, array in full.items() if not name.endswith("1.self_attn.v_proj.lora_B.weight")
    }
    with pytest.raises(AdapterError, match="lora_B is missing"):
        merged(base, (write_adapter(tmp_path / "side", one_sided), 1.0))


def test_saved_module_with_a_weight_or_twice_is_refused(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    arrays = lora_arrays(llama_config(), attention_modules(2))
    arrays["lm_head.weight"] = np.ones((384, 64), np.float32)
    one = write_adapter(tmp_path / "one", arrays, modules_to_save=["lm_head"])
    with pytest.raises(AdapterError, match="trained whole"):
        merged(base, (one, 0.5))
    with pytest.raises(AdapterError, match="is replaced by"):
        merged(base, (one, 1.0), (one, 1.0))


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    arrays = lora_arrays(llama_config(), attention_modules(2))
    arrays["model.layers.0.self_attn.q_proj.lora_B.weight"][0, 0] = np.nan
    ours = merged(base, (write_adapter(tmp_path / "lora", arrays), 1.0))
    with pytest.raises(AdapterError, match="aren't finite"):
        ours.read("model.layers.0.self_attn.q_proj.weight")


def test_rank_that_the_configuration_contradicts_is_refused(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    adapter = write_adapter(tmp_path / "lora", lora_arrays(llama_config(), attention_modules(2)), r=8)
    with pytest.raises(AdapterError, match="the configuration says rank 8"):
        merged(base, (adapter, 1.0))
    for rank in (4.5, 0.5):
        arrays = lora_arrays(llama_config(), attention_modules(2))
        adapter = write_adapter(tmp_path / f"{rank}", arrays, rank_pattern={"q_proj": rank})
        with pytest.raises(AdapterError, match=f"the configuration says rank {rank}"):
            merged(base, (adapter, 1.0))


def test_a_real_adapter_for_gpt2_opens(data: Path) -> None:
    adapter = Adapter(data / "adapters" / "gpt2-tigrinya-lora")
    assert adapter.problems == [] and len(adapter.pairs) == 36
    assert {pair.scale for pair in adapter.pairs.values()} == {4.0}


def test_tensors_that_would_hide_each_other_are_refused(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    full = lora_arrays(llama_config(), attention_modules(2))
    name = "model.layers.0.self_attn.q_proj.lora_A"
    twice = full | {f"{name}.default.weight": full[f"{name}.weight"] * 100}
    with pytest.raises(AdapterError, match="two tensors for one place"):
        merged(base, (write_adapter(tmp_path / "twice", twice), 1.0))
    nested = {f"transformer.{key}": array for key, array in full.items()} | full
    with pytest.raises(AdapterError, match="as .* does"):
        merged(base, (write_adapter(tmp_path / "nested", nested), 1.0))
    other = {f"vision_model.{key}": array for key, array in full.items()}
    with pytest.raises(AdapterError, match="the base has no such module"):
        merged(base, (write_adapter(tmp_path / "other", other), 1.0))


def test_a_half_adapter_with_a_regex_is_refused(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    half = lora_arrays(llama_config(), attention_modules(1))
    adapter = write_adapter(tmp_path / "half", half, target_modules=r".*\.(q_proj|v_proj)")
    with pytest.raises(AdapterError, match="layers.1.self_attn.q_proj: is targeted"):
        merged(base, (adapter, 1.0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"peft_type": "LOHA"}, "Hadamard"),
        ({"peft_type": "IA3"}, "activations"),
        ({"peft_type": "VERA"}, "seed"),
        ({"peft_type": "PROMPT_TUNING"}, "virtual tokens"),
        ({"peft_type": "XLORA"}, "every token"),
        ({"bias": "all"}, "biases"),
        ({"use_dora": True, "lora_bias": True}, "use_dora and lora_bias contradict"),
        ({"use_dora": True, "target_parameters": ["experts.down_proj"]}, "contradict"),
        ({"lora_bias": True, "target_parameters": ["experts.down_proj"]}, "contradict"),
        ({"fan_in_fan_out": True, "target_parameters": ["experts.down_proj"]}, "contradict"),
        ({"target_parameters": ["experts.magic"]}, "can't place"),
        ({"target_parameters": "experts.down_proj"}, "can't place"),
        ({"trainable_token_indices": [1, -1]}, "trainable_token_indices is unsound"),
        ({"trainable_token_indices": [1, 1]}, "trainable_token_indices is unsound"),
        ({"trainable_token_indices": {"embed_tokens": 3}}, "trainable_token_indices is unsound"),
        ({"use_dora": "yes"}, "use_dora is unsound"),
        ({"layer_replication": [[0, 2]]}, "duplicates layers"),
        ({"alora_invocation_tokens": [1]}, "invocation"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4 had changed"),
        ({"init_lora_weights": "loftq"}, "loftq had changed"),
        ({"use_something_new": {"x": 1}}, "won't guess"),
        ({"r": 0}, "r is unsound"),
        ({"r": True}, "r is unsound"),
        ({"use_rslora": "false"}, "use_rslora is unsound"),
        ({"exclude_modules": 5}, "exclude_modules is unsound"),
        ({"exclude_modules": "("}, "exclude_modules is unsound"),
        ({"layers_to_transform": "ab"}, "layers_to_transform is unsound"),
        ({"layers_to_transform": 1.5}, "layers_to_transform is unsound"),
        ({"layers_pattern": "("}, "layers_pattern is unsound"),
        ({"target_modules": r"(([a-z_0-9]+\.?)+)+!"}, "target_modules is unsound"),
        ({"target_modules": r"(a*)*b"}, "target_modules is unsound"),
        ({"lora_alpha": "16"}, "lora_alpha is unsound"),
        ({"rank_pattern": {"(": 4}}, "rank_pattern is unsound"),
        ({"target_modules": 3}, "target_modules is unsound"),
    ],
)
def test_kinds_and_values_that_no_merge_holds_are_refused(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    arrays = lora_arrays(llama_config(), attention_modules(2))
    folder = write_adapter(tmp_path / "lora", arrays, **change)
    with pytest.raises(AdapterError) as caught:
        Adapter(folder)
    assert reason in str(caught.value)
    assert caught.value.path == str(folder / "adapter_config.json")


def test_pickle_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"]})
    )
    (tmp_path / "adapter_model.bin").write_bytes(b"PK")
    with pytest.raises(AdapterError, match="pickle"):
        Adapter(tmp_path)
