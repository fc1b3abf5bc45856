"""MLX adapters: the same factors as PEFT's, transposed; a real one is held against a GGUF made from it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.converters.adapter import Adapter
from edgekit.converters.checkpoint import Checkpoint
from edgekit.errors import AdapterError, InputError
from tests.converters.adapters import assert_same, merged, peft_merge, train, write_base
from tests.models import save

PARTS = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b", "lora_magnitude_vector": "m"}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("llama"))


def write_mlx(folder: Path, arrays: dict[str, Any], **config: Any) -> Path:
    """An adapter as mlx_lm.lora saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "fine_tune_type": "lora", "model": "mlx-community/tiny", "num_layers": -1, "train": True, "seed": 0,
        "lora_parameters": {"rank": 4, "dropout": 0.0, "scale": 2.0}, "learning_rate": 1e-5, "adapter_path": "x",
    } | config  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save(folder / "adapters.safetensors", arrays)
    return folder


def as_mlx(peft: Path) -> dict[str, Any]:
    """The tensors of a PEFT adapter by MLX's names and in its layout."""
    load_file = pytest.importorskip("safetensors.numpy").load_file
    out = {}
    for name, array in load_file(peft / "adapter_model.safetensors").items():
        module, part = next(
            (name.removesuffix(f".{part}"), mlx) for part, mlx in PARTS.items() if name.endswith(part)
        )
        out[f"{module.removeprefix('base_model.model.')}.{part}"] = np.ascontiguousarray(array.T)
    return out


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_merges_as_pefts_does(llama: Path, tmp_path: Path, kind: str) -> None:
    dora = kind == "dora"
    peft = train(llama, tmp_path / "peft", target_modules=["q_proj", "down_proj"], use_dora=dora)
    mlx = write_mlx(tmp_path / "mlx", as_mlx(peft), fine_tune_type=kind)
    assert_same(merged(llama, (mlx, 1.0)), peft_merge(tmp_path, llama, (peft, 1.0)), changed=4)
    assert_same(merged(llama, (mlx, 0.5)), peft_merge(tmp_path / "half", llama, (peft, 0.5)))


def test_together_with_a_peft_adapter(llama: Path, tmp_path: Path) -> None:
    peft = train(llama, tmp_path / "peft", target_modules=["q_proj"])
    mlx = write_mlx(tmp_path / "mlx", as_mlx(peft))
    other = train(llama, tmp_path / "other", target_modules=["q_proj", "v_proj"], seed=2)
    theirs = peft_merge(tmp_path, llama, (peft, 0.5), (other, 2.0))
    assert_same(merged(llama, (mlx, 0.5), (other, 2.0)), theirs, changed=4)


def test_an_embedding_changes_a_tied_head_too(tmp_path: Path) -> None:
    """mlx-lm's LoRAEmbedding.as_linear multiplies by the same factors."""
    base = write_base(tmp_path / "base", tie_word_embeddings=True)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((64, 4), (4, 32)))
    mlx = write_mlx(
        tmp_path / "mlx",
        {"model.embed_tokens.lora_a": a, "model.embed_tokens.lora_b": b},
        fine_tune_type="lora",
    )
    ours = merged(base, (mlx, 1.0))
    assert not ours.untied and ours.changed == ("model.embed_tokens.weight",)
    expected = Checkpoint(base).read("model.embed_tokens.weight") + 2 * (a @ b)
    np.testing.assert_allclose(ours.read("model.embed_tokens.weight"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "scale"),
    [
        ({"lora_parameters": {"rank": 4, "scale": 10.0, "alpha": 16}}, 10.0),
        ({"lora_parameters": {"rank": 4, "alpha": 6}}, 1.5),
        (
            {
                "lora_parameters": {"rank": 4, "scale": 3, "alpha": 4},
                "fine_tune_type": None,
                "lora_layers": 2,
            },
            3.0,
        ),
    ],
)
def test_scale(llama: Path, tmp_path: Path, change: dict[str, Any], scale: float) -> None:
    peft = train(llama, tmp_path / "peft", target_modules=["q_proj"])
    folder = write_mlx(tmp_path / "mlx", as_mlx(peft))
    config = json.loads((folder / "adapter_config.json").read_text()) | change
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert {pair.scale for pair in Adapter(folder).pairs.values()} == {scale}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fine_tune_type": "full"}, "a full fine-tune is no adapter"),
        ({"fine_tune_type": "other"}, "not an adapter that edgekit merges"),
        ({"lora_parameters": {"rank": 4}}, "lora_parameters is unsound"),
        ({"lora_parameters": {"rank": 0, "scale": 1.0}}, "lora_parameters is unsound"),
        ({"lora_parameters": {"rank": 4, "scale": "2"}}, "lora_parameters is unsound"),
        ({"lora_parameters": {"rank": 4, "scale": float("nan")}}, "unsound"),
        ({"lora_parameters": {"rank": 4, "scale": 1.0, "rslora": True}}, "rslora"),
        ({"lora_parameters": None}, "lora_parameters is unsound"),
        ({"num_layers": "all"}, "num_layers is unsound"),
        ({"merge_with": "x"}, "won't guess"),
    ],
)
def test_what_is_unknown_is_refused(llama: Path, tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    arrays = {"model.layers.0.self_attn.q_proj.lora_a": np.ones((32, 4), np.float32)}
    folder = write_mlx(tmp_path / "mlx", arrays, **change)
    with pytest.raises(InputError, match=reason) as caught:
        Adapter(folder)
    assert caught.value.path == str(folder / "adapter_config.json")


def test_alpha_and_scale_of_a_version_before_dora_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = write_mlx(tmp_path / "mlx", {"model.layers.0.q.lora_a": np.ones((32, 4), np.float32)})
    parameters = {"rank": 4, "scale": 10.0, "alpha": 16}
    (folder / "adapter_config.json").write_text(json.dumps({"lora_parameters": parameters}))
    with pytest.raises(AdapterError, match="versions of mlx-lm differ"):
        Adapter(folder)


def test_a_layer_that_is_missing_and_parts_that_do_not_fit_are_refused(llama: Path, tmp_path: Path) -> None:
    arrays = as_mlx(train(llama, tmp_path / "peft", target_modules=["q_proj", "v_proj"]))
    top = {name: array for name, array in arrays.items() if "layers.1." in name}
    merged(llama, (write_mlx(tmp_path / "top", top, num_layers=1), 1.0))
    for number in (2, 16, -1):
        with pytest.raises(AdapterError, match=r"layers.0.self_attn.q_proj: is targeted, but"):
            merged(llama, (write_mlx(tmp_path / f"half{number}", top, num_layers=number), 1.0))
    for layer, reason in (("70000", "more modules than"), ("9" * 5000, "num_layers is unsound")):
        far = top | {f"model.layers.{layer}.q.lora_a": np.ones((32, 4), np.float32)}
        with pytest.raises(AdapterError, match=reason):
            Adapter(write_mlx(tmp_path / f"far{len(layer)}", far))
    without = {name: array for name, array in arrays.items() if "0.self_attn.v_proj" not in name}
    with pytest.raises(AdapterError, match=r"layers.0.self_attn.v_proj: is targeted, but"):
        merged(llama, (write_mlx(tmp_path / "without", without), 1.0))
    name = "model.layers.0.self_attn.q_proj.lora_a"
    with pytest.raises(AdapterError, match="lora_B is missing"):
        merged(llama, (write_mlx(tmp_path / "one", {name: arrays[name]}), 1.0))
    peft_way = arrays | {name: np.ascontiguousarray(arrays[name].T)}
    with pytest.raises(AdapterError, match="the configuration says rank 4"):
        merged(llama, (write_mlx(tmp_path / "turned", peft_way), 1.0))
    stray = arrays | {"model.layers.0.self_attn.q_proj.weight": np.ones((32, 32), np.float32)}
    with pytest.raises(AdapterError, match="nothing consumes tensor"):
        merged(llama, (write_mlx(tmp_path / "stray", stray), 1.0))
    broken = arrays | {name: np.full((32, 4), np.inf, np.float32)}
    with pytest.raises(AdapterError, match="aren't finite"):
        merged(llama, (write_mlx(tmp_path / "inf", broken), 1.0)).read(name.replace("lora_a", "weight"))


def test_a_real_adapter_reads_as_the_gguf_that_was_made_from_it(data: Path) -> None:
    """The hashes are of float16. That converter permuted the columns of q's A by heads, not the rows of B."""
    folder = data / "adapters" / "discollama-mlx"
    gold = json.loads((folder / "discollama.json").read_text())
    adapter = Adapter(folder / "discollama")
    assert not adapter.problems and len(adapter.pairs) == 4
    heads, rank = int(gold["llama.attention.head_count"]), 8

    def digest(array: Any) -> str:
        return hashlib.sha256(np.ascontiguousarray(array).astype("<f2").tobytes()).hexdigest()

    for module, pair in adapter.pairs.items():
        assert pair.scale == float(gold["adapter.lora.alpha"]) / rank
        _, _, layer, _, kind = module.split(".")
        place = f"blk.{layer}.attn_{kind[0]}.weight"
        a, b = adapter.factor(pair.a), adapter.factor(pair.b)
        if kind == "q_proj":
            a = a.reshape(rank, heads, 2, -1).swapaxes(2, 3).reshape(rank, -1)
        assert digest(a) == gold[f"{place}.lora_a"]
        assert digest(b) == gold[f"{place}.lora_b"]


@pytest.mark.parametrize(
    ("name", "noted"),
    [("unsloth/llama-3-8b-bnb-4bit", True), ("mlx-community/Llama-3-4bit", True), ("org/llama-3-8b", False)],
)
def test_a_quantized_base_is_noted(llama: Path, tmp_path: Path, name: str, noted: bool) -> None:
    arrays = as_mlx(train(llama, tmp_path / "peft", target_modules=["q_proj"]))
    adapter = Adapter(write_mlx(tmp_path / "mlx", arrays, model=name))
    assert bool(adapter.notes) == noted == any("16-bit" in note for note in adapter.notes)


def test_a_quantization_beside_the_adapter_is_noted(llama: Path, tmp_path: Path) -> None:
    lora = train(llama, tmp_path / "lora", target_modules=["q_proj"])
    assert Adapter(lora).notes == []
    (lora / "config.json").write_text(json.dumps({"quantization_config": {"load_in_4bit": True}}))
    assert "trained on a quantized base" in Adapter(lora).notes[0]
