"""DoRA and trained biases are merged as PEFT merges them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.converters import changes
from edgekit.converters.adapter import Adapter
from edgekit.errors import AdapterError
from tests.converters.adapters import assert_same, merged, peft_merge, train, write_base
from tests.models import save

LINEAR = ["q_proj", "v_proj", "o_proj", "down_proj"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("llama"))


def rewrite(folder: Path, change: Mapping[str, NDArray[np.float32] | None]) -> None:
    """Replace tensors of an adapter's file, or drop them where None is given."""
    load_file = pytest.importorskip("safetensors.numpy").load_file
    path = folder / "adapter_model.safetensors"
    arrays = {**load_file(path), **change}
    save(path, {name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_dora(llama: Path, tmp_path: Path, weight: float) -> None:
    lora = train(llama, tmp_path / "lora", target_modules=LINEAR, use_dora=True, use_rslora=True)
    assert_same(merged(llama, (lora, weight)), peft_merge(tmp_path, llama, (lora, weight)), changed=8)


def test_dora_on_matrices_stored_transposed_measures_columns_in_bounded_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_base(tmp_path / "base", "GPT2Config", n_embd=32, n_layer=2, n_head=2, n_positions=64)
    lora = train(
        base, tmp_path / "lora", target_modules=["c_attn", "c_fc"], use_dora=True, fan_in_fan_out=True
    )
    monkeypatch.setattr(changes, "PASS_BYTES", 7 * 4 * 96)
    ours = merged(base, (lora, 1.0))
    asked: list[int] = []
    read = ours.base.read

    def watched(name: str, rows: slice, out: object = None) -> object:
        asked.append(rows.stop - rows.start)
        return read(name, rows, out)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ours.base, "read", watched)
        ours.read("transformer.h.0.attn.c_attn.weight", slice(0, 3))
    assert max(asked) == 7 and sum(asked) == 32 + 3
    theirs = peft_merge(tmp_path, base, (lora, 1.0))
    assert_same(ours, theirs, changed=4)


def test_dora_on_an_embedding(llama: Path, tmp_path: Path) -> None:
    lora = train(llama, tmp_path / "lora", target_modules=["q_proj", "embed_tokens"], use_dora=True)
    assert_same(merged(llama, (lora, 1.0)), peft_merge(tmp_path, llama, (lora, 1.0)), changed=3)


def test_dora_beside_a_lora_on_other_modules(llama: Path, tmp_path: Path) -> None:
    dora = train(llama, tmp_path / "dora", target_modules=["q_proj"], use_dora=True)
    lora = train(llama, tmp_path / "lora", target_modules=["v_proj", "up_proj"], seed=2)
    pair = ((dora, 1.0), (lora, 0.5))
    assert_same(merged(llama, *pair), peft_merge(tmp_path, llama, *pair), changed=6)


def test_nothing_is_added_to_dora(llama: Path, tmp_path: Path) -> None:
    """PEFT's own merge and forward differ here: one rescales the other adapter too."""
    dora = train(llama, tmp_path / "dora", target_modules=["q_proj"], use_dora=True)
    lora = train(llama, tmp_path / "lora", target_modules=["q_proj"], seed=2)
    for pair in (((dora, 1.0), (lora, 1.0)), ((lora, 1.0), (dora, 1.0)), ((dora, 1.0), (dora, 1.0))):
        with pytest.raises(AdapterError, match="no other adapter can be added"):
            merged(llama, *pair)


def test_threads_read_what_one_reads(llama: Path, tmp_path: Path) -> None:
    lora = train(llama, tmp_path / "lora", target_modules=["embed_tokens", "q_proj"], use_dora=True)
    ours, names = merged(llama, (lora, 1.0)), [n for n in merged(llama, (lora, 1.0)).changed]
    runs = [(name, slice(i, i + 5)) for name in names for i in range(0, ours.info(name).rows, 5)] * 3
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda run: ours.read(*run), runs))
    alone = {name: merged(llama, (lora, 1.0)).read(name) for name in names}
    for (name, rows), array in zip(runs, found, strict=True):
        np.testing.assert_allclose(array, alone[name][rows], rtol=1e-6, atol=1e-7)


def test_magnitudes_that_are_missing_misshapen_or_unasked_are_refused(llama: Path, tmp_path: Path) -> None:
    place = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    for number, (change, reason) in enumerate(
        [
            (None, "lora_magnitude_vector is missing"),
            (np.ones(31, np.float32), r"the magnitude is \(31,\)"),
            (np.ones((32, 1), np.float32), "the magnitude is"),
        ]
    ):
        lora = train(llama, tmp_path / f"lora{number}", target_modules=["q_proj"], use_dora=True)
        rewrite(lora, {place: change})
        with pytest.raises(AdapterError, match=reason):
            merged(llama, (lora, 1.0))
    plain = train(llama, tmp_path / "plain", target_modules=["q_proj"])
    rewrite(plain, {place: np.ones(32, np.float32)})
    with pytest.raises(AdapterError, match="nothing consumes tensor .*magnitude"):
        merged(llama, (plain, 1.0))


def test_values_that_dora_cannot_divide_by_are_refused(llama: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    load_file = pytest.importorskip("safetensors.numpy").load_file
    tensors = load_file(base / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    tensors[f"{name}.weight"][3] = 0
    save(base / "model.safetensors", tensors)
    lora = train(llama, tmp_path / "lora", target_modules=["q_proj"], use_dora=True)
    rewrite(lora, {f"base_model.model.{name}.lora_B.weight": np.zeros((32, 4), np.float32)})
    with pytest.raises(AdapterError, match="divides by the length"):
        merged(base, (lora, 1.0)).read(f"{name}.weight")
    rewrite(lora, {f"base_model.model.{name}.lora_magnitude_vector": np.full(32, np.inf, np.float32)})
    with pytest.raises(AdapterError, match="aren't finite"):
        merged(llama, (lora, 1.0)).read(f"{name}.weight")


@pytest.mark.parametrize("weight", [1.0, -0.7])
def test_lora_bias(tmp_path: Path, weight: float) -> None:
    base = write_base(tmp_path / "base", "Qwen2Config")
    lora = train(base, tmp_path / "lora", target_modules=["q_proj", "k_proj"], lora_bias=True)
    assert_same(merged(base, (lora, weight)), peft_merge(tmp_path, base, (lora, weight)), changed=8)


def test_a_trained_bias_without_one_in_the_base_is_refused(llama: Path, tmp_path: Path) -> None:
    lora = train(llama, tmp_path / "lora", target_modules=["q_proj"], lora_bias=True)
    with pytest.raises(AdapterError, match="the base has none to add it to"):
        merged(llama, (lora, 1.0))
    place = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.bias"
    rewrite(lora, {place: None})
    with pytest.raises(AdapterError, match=r"layers.1.self_attn.q_proj: lora_B.bias is missing"):
        merged(llama, (lora, 1.0))


def test_biases_unasked_are_refused(llama: Path, tmp_path: Path) -> None:
    lora = train(llama, tmp_path / "lora", target_modules=["q_proj"], lora_bias=True)
    config = json.loads((lora / "adapter_config.json").read_text()) | {"lora_bias": False}
    (lora / "adapter_config.json").write_text(json.dumps(config))
    assert any("lora_B.bias" in problem for problem in Adapter(lora).problems)
