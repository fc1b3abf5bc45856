"""Adapters on stacks of experts (target_parameters) and on fused projections, against PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.converters.adapter import Adapter
from edgekit.errors import AdapterError
from tests.converters.adapters import assert_same, merged, peft_merge, train, write_base
from tests.converters.test_dora import rewrite
from tests.converters.test_embeddings import reconfigure

STACKS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
MIXTRAL = {"num_local_experts": 3, "num_experts_per_tok": 2, "num_hidden_layers": 1}
QWEN = {
    "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "num_hidden_layers": 1,
    "shared_expert_intermediate_size": 16,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "MixtralConfig": MIXTRAL,
    "Qwen2MoeConfig": QWEN,
    "Qwen3MoeConfig": QWEN,
    "OlmoeConfig": QWEN,
    "GptOssConfig": MIXTRAL | {"head_dim": 8, "layer_types": ["full_attention"]},
    "Gemma4TextConfig": {
        "num_experts": 3,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
        "enable_moe_block": True,
        "head_dim": 8,
        "global_head_dim": 16,
        "hidden_size_per_layer_input": 0,
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
CHANGED = {
    "MixtralConfig": 10,
    "Qwen2MoeConfig": 10,
    "Qwen3MoeConfig": 10,
    "OlmoeConfig": 10,
    "GptOssConfig": 3,
    "Gemma4TextConfig": 6,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_and_attention(family: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", family, **FAMILIES[family])
    one = train(
        base,
        tmp_path / "one",
        target_modules=["q_proj"],
        target_parameters=[name.removeprefix("mlp.") for name in STACKS] if "Gemma4" in family else STACKS,
        rank_pattern={r".*\.down_proj": 2},
        alpha_pattern={"experts.gate_up_proj": 3},
        use_rslora=True,
    )
    assert_same(merged(base, (one, 1.0)), peft_merge(tmp_path, base, (one, 1.0)), changed=CHANGED[family])


def test_weighted_adapters_on_experts(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "MixtralConfig", **MIXTRAL)
    one = train(base, tmp_path / "one", target_modules=["q_proj"], target_parameters=STACKS)
    two = train(base, tmp_path / "two", target_modules=["o_proj"], target_parameters=STACKS, r=2, seed=2)
    pair = ((one, 0.3), (two, -1.5))
    assert_same(merged(base, *pair), peft_merge(tmp_path, base, *pair), changed=11)


@pytest.mark.parametrize("family", ["MixtralConfig", "GptOssConfig"])
def test_one_of_two_stacks(family: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", family, **FAMILIES[family])
    lora = train(base, tmp_path / "lora", target_modules=[], target_parameters=["experts.down_proj"])
    assert_same(merged(base, (lora, 1.0)), peft_merge(tmp_path, base, (lora, 1.0)))


def test_a_plain_matrix_by_its_parameter(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    lora = train(
        base,
        tmp_path / "lora",
        target_modules=[],
        target_parameters=["q_proj.weight"],
        rank_pattern={"q_proj.weight": 3},
    )
    assert_same(merged(base, (lora, 1.0)), peft_merge(tmp_path, base, (lora, 1.0)), changed=2)


def test_only_the_factors_of_experts_that_the_rows_touch_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_base(tmp_path / "base", "GptOssConfig", **FAMILIES["GptOssConfig"])
    lora = train(base, tmp_path / "lora", target_modules=[], target_parameters=STACKS)
    ours = merged(base, (lora, 1.0))
    asked: list[tuple[str, int, int | None]] = []
    read = Adapter.read

    def watched(self: Adapter, name: str, start: int = 0, stop: int | None = None, out: Any = None) -> Any:
        asked.append((name.rpartition(".lora_")[2], start, stop))
        return read(self, name, start, stop, out)

    monkeypatch.setattr(Adapter, "read", watched)
    ours.read("model.layers.0.mlp.experts.gate_up_proj", slice(40, 60))
    ours.read("model.layers.0.mlp.experts.gate_up_proj", slice(60, 64))
    assert asked == [("B.weight", 0, None), ("A.weight", 4, 8), ("A.weight", 4, 8)]


@pytest.mark.parametrize("dora", [False, True])
def test_fused_projections(tmp_path: Path, dora: bool) -> None:
    base = write_base(tmp_path / "base", "Phi3Config")
    lora = train(base, tmp_path / "lora", target_modules=["qkv_proj", "gate_up_proj"], use_dora=dora)
    assert_same(merged(base, (lora, 1.0)), peft_merge(tmp_path, base, (lora, 1.0)), changed=4)


def test_projections_that_the_base_stores_otherwise_are_refused(tmp_path: Path) -> None:
    """PEFT would not split or join them either."""
    fused, split = write_base(tmp_path / "fused", "Phi3Config"), write_base(tmp_path / "split")
    lora = train(fused, tmp_path / "lora", target_modules=["qkv_proj"])
    with pytest.raises(AdapterError, match="qkv_proj: the base has no such module"):
        merged(split, (lora, 1.0))
    lora = train(split, tmp_path / "other", target_modules=["q_proj"])
    with pytest.raises(AdapterError, match="q_proj: the base has no such module"):
        merged(fused, (lora, 1.0))


def test_experts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "MixtralConfig", **MIXTRAL)
    more = write_base(tmp_path / "more", "MixtralConfig", **{**MIXTRAL, "num_local_experts": 4})
    lora = train(base, tmp_path / "lora", target_modules=[], target_parameters=STACKS)
    with pytest.raises(AdapterError, match="the base's 4 experts of rank 4"):
        merged(more, (lora, 1.0))
    with pytest.raises(AdapterError, match="the base has no such experts"):
        merged(write_base(tmp_path / "dense"), (lora, 1.0))
    inner = "base_model.model.model.layers.0.mlp.experts.base_layer"
    rewrite(lora, {f"{inner}.lora_A.weight": None, f"{inner}.lora_B.weight": None})
    with pytest.raises(AdapterError, match="experts.gate_up_proj: is targeted, but"):
        merged(base, (lora, 1.0))
    rewrite(lora, {f"{inner}.base_layer.lora_A.weight": np.ones((12, 32), np.float32)})
    with pytest.raises(AdapterError, match="lora_B is missing"):
        merged(base, (lora, 1.0))


def test_square_experts_of_an_older_peft_are_refused(tmp_path: Path) -> None:
    """Older versions read every stack as (experts, in, out): of a square one the shapes don't tell."""
    base = write_base(tmp_path / "base", "MixtralConfig", **{**MIXTRAL, "intermediate_size": 32})
    lora = train(base, tmp_path / "lora", target_modules=[], target_parameters=STACKS[1:])
    assert_same(merged(base, (lora, 1.0)), peft_merge(tmp_path, base, (lora, 1.0)), changed=3)
    for version in ("0.18.1", None, "new"):
        reconfigure(lora, peft_version=version)
        with pytest.raises(AdapterError, match="which way they lie is unclear"):
            merged(base, (lora, 1.0))
