"""llama.cpp's own application of an adapter file is the oracle: base + adapter gives the merged model's logits."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgekit.convert_adapter import convert_adapter
from edgekit.converters.adapter import Adapter
from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.lora import Merged
from edgekit.errors import AdapterError, InputError
from edgekit.runtimes.engine import Run
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions
from edgekit.tensors import Float32
from tests.converters.cases import CASES
from tests.converters.oracles import add_lora, make, to_gguf
from tests.models import (
    attention_modules,
    llama_config,
    llama_weights,
    lora_arrays,
    write_adapter,
    write_llama,
)

TOKENS = [7, 300, 12, 99, 256, 31, 8, 200, 150, 42]

MERGED_ONLY = {"gemma-4-e2b", "gemma-4-untied"}
"""Cases whose adapters train what llama.cpp multiplies by without looking for them."""


def logits(model: Path, adapter: Path | None = None) -> Float32:
    """Logits of every position, with llama.cpp applying an adapter file where one is given."""
    engine = LlamaCppEngine(model, LlamaCppOptions(n_ctx=64, kv_type="f32"))
    lib = engine._lib
    try:
        if adapter:
            loaded = lib.llama_adapter_lora_init(engine._model, str(adapter).encode())
            assert loaded, "llama.cpp doesn't take the adapter"
            array, scales = (lib.llama_adapter_lora_p_ctypes * 1)(loaded), (ctypes.c_float * 1)(1.0)
            assert lib.llama_set_adapters_lora(engine._context, array, 1, scales) == 0
        return np.stack([row.copy() for row in engine.decode([Run(0, TOKENS, tuple(range(len(TOKENS))))])])
    finally:
        engine.close()


def assert_applied(folder: Path) -> None:
    """base.gguf + adapter.gguf and the merged file of a folder with base/ and lora/ agree."""
    convert_adapter(folder / "lora", folder / "base", folder / "lora.gguf")
    base = to_gguf(folder / "base", folder / "base.gguf")
    merged = logits(to_gguf(folder / "base", folder / "merged.gguf", adapter=folder / "lora"))
    assert np.abs(logits(base, folder / "lora.gguf") - merged).max() <= 1e-3
    assert np.abs(logits(base) - merged).max() > 0.05


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT's
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.lora])
def test_llama_cpp_applies_it_as_the_merge_does(name: str, tmp_path: Path) -> None:
    add_lora(CASES[name], make(CASES[name], tmp_path / "base"), tmp_path / "lora")
    if name in MERGED_ONLY:
        with pytest.raises(AdapterError, match="llama.cpp applies no adapter there"):
            assert_applied(tmp_path)
    else:
        assert_applied(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"use_rslora": True},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"0.self_attn.q_proj": 3}},
        {"lora_alpha": 4, "use_rslora": True, "alpha_pattern": {"q_proj": 16}},
    ],
)
def test_scales_of_every_kind(tmp_path: Path, config: dict[str, Any]) -> None:
    write_llama(tmp_path / "base")
    modules = attention_modules(2)
    arrays = lora_arrays(llama_config(), [m for m in modules if "q_proj" in m])
    arrays |= lora_arrays(
        llama_config(), [m for m in modules if "v_proj" in m], 2 if "rank_pattern" in config else 4
    )
    write_adapter(tmp_path / "lora", {name: 5 * a for name, a in arrays.items()}, **config)
    assert_applied(tmp_path)


def test_factors_stay_as_they_are_where_the_scale_is_plain(tmp_path: Path) -> None:
    write_llama(tmp_path / "base")
    arrays = lora_arrays(llama_config(), attention_modules(2, ("v_proj",)))
    write_adapter(tmp_path / "lora", arrays, use_rslora=True, target_modules=["v_proj"])
    convert_adapter(tmp_path / "lora", tmp_path / "base", tmp_path / "a.gguf")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert reader.fields["adapter.lora.alpha"].contents() == pytest.approx(8 * math.sqrt(4))
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert set(found) == {f"blk.{i}.attn_v.weight.lora_{side}" for i in range(2) for side in "ab"}
    for i in range(2):
        module = f"model.layers.{i}.self_attn.v_proj.lora_"
        assert np.array_equal(found[f"blk.{i}.attn_v.weight.lora_a"], arrays[f"{module}A.weight"])
        assert np.array_equal(found[f"blk.{i}.attn_v.weight.lora_b"], arrays[f"{module}B.weight"])


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_smaller_types(tmp_path: Path, kind: str) -> None:
    write_llama(tmp_path / "base")
    write_adapter(tmp_path / "lora", lora_arrays(llama_config(), attention_modules(2)))
    convert_adapter(tmp_path / "lora", tmp_path / "base", tmp_path / "a.gguf", kind=kind)
    assert {tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors} == {kind}


def test_what_only_a_merge_can_do_is_refused(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", tie_word_embeddings=True)
    arrays = lora_arrays(llama_config(), attention_modules(2))
    head = {
        "lm_head.lora_A.weight": np.ones((4, 64), np.float32),
        "lm_head.lora_B.weight": np.ones((384, 4), np.float32),
    }
    write_adapter(tmp_path / "head", arrays | head, target_modules=["q_proj", "v_proj", "lm_head"])
    norm = {"model.norm.weight": np.ones(64, np.float32)}
    write_adapter(tmp_path / "saved", arrays | norm, modules_to_save=["norm"])
    for folder, why in ("head", "tied to the embedding"), ("saved", "only a merge"):
        with pytest.raises(AdapterError, match=why):
            convert_adapter(tmp_path / folder, base, tmp_path / "a.gguf")
    assert not list(tmp_path.glob("*a.gguf*"))


def test_a_file_that_exists_stays(tmp_path: Path) -> None:
    write_llama(tmp_path / "base")
    write_adapter(tmp_path / "lora", lora_arrays(llama_config(), attention_modules(2)))
    (tmp_path / "a.gguf").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        convert_adapter(tmp_path / "lora", tmp_path / "base", tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_text() == "mine"
    convert_adapter(tmp_path / "lora", tmp_path / "base", tmp_path / "a.gguf", force=True)
    assert (tmp_path / "a.gguf").read_bytes()[:4] == b"GGUF"


ROWS = {
    f"model.layers.{i}.self_attn.{kind}_proj": rows for i in range(2) for kind, rows in (("q", 64), ("v", 32))
}
RANK_4: Any = np.ones((4, 64), np.float32)
MORE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "dora": (
        {f"{module}.lora_magnitude_vector": np.ones(rows, np.float32) for module, rows in ROWS.items()},
        {"use_dora": True},
        "more than a plain B·A",
    ),
    "bias": (
        {f"{module}.lora_B.bias": np.ones(rows, np.float32) for module, rows in ROWS.items()},
        {"lora_bias": True},
        "more than a plain B·A",
    ),
    "embedding": (
        {
            "model.embed_tokens.lora_embedding_A": np.ones((4, 384), np.float32),
            "model.embed_tokens.lora_embedding_B": RANK_4.T.copy(),
        },
        {"target_modules": ["q_proj", "v_proj", "embed_tokens"]},
        "more than a plain B·A",
    ),
    "tokens": (
        {"model.embed_tokens.token_adapter.trainable_tokens_delta": RANK_4},
        {"trainable_token_indices": [1, 2, 3, 4]},
        "single tokens",
    ),
    "nothing": ({}, {"lora_alpha": 0}, "scale is zero"),
    "next to nothing": ({}, {"lora_alpha": 1e-320}, "scale is zero"),
}


@pytest.mark.parametrize("kind", MORE)
def test_what_is_more_than_a_product_is_refused(tmp_path: Path, kind: str) -> None:
    more, config, why = MORE[kind]
    base = write_llama(tmp_path / "base", attention_bias=True)
    arrays = lora_arrays(llama_config(), attention_modules(2))
    write_adapter(tmp_path / "lora", arrays | more, **config)
    assert Merged(Checkpoint(base), [(Adapter(tmp_path / "lora"), 1.0)]), "a merge takes it"
    with pytest.raises(AdapterError, match=why):
        convert_adapter(tmp_path / "lora", base, tmp_path / "a.gguf")
    assert not list(tmp_path.glob("*a.gguf*"))


def test_adapters_on_experts_are_refused(tmp_path: Path) -> None:
    make(CASES["mixtral"], tmp_path / "base")
    ranks = 4 * 8
    arrays = {
        f"model.layers.{i}.mlp.experts.lora_{side}.weight": np.ones(shape, np.float32)
        for i in range(2)
        for side, shape in (("A", (ranks, 96)), ("B", (64, ranks)))
    }
    wanted = {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"], "peft_version": "0.21.0"}
    write_adapter(tmp_path / "lora", arrays, **wanted)
    assert Merged(Checkpoint(tmp_path / "base"), [(Adapter(tmp_path / "lora"), 1.0)]), "a merge takes it"
    with pytest.raises(AdapterError, match="more than a plain B·A"):
        convert_adapter(tmp_path / "lora", tmp_path / "base", tmp_path / "a.gguf")


def test_factors_that_a_smaller_type_cannot_hold_are_refused(tmp_path: Path) -> None:
    write_llama(tmp_path / "base")
    arrays = lora_arrays(llama_config(), attention_modules(2))
    write_adapter(tmp_path / "lora", {name: 1e6 * a for name, a in arrays.items()})
    with pytest.raises(AdapterError, match="F16 can't"):
        convert_adapter(tmp_path / "lora", tmp_path / "base", tmp_path / "a.gguf", kind="F16")
    assert not list(tmp_path.glob("*a.gguf*"))


@pytest.mark.parametrize("own", [True, False])
def test_a_head_that_peft_saved_beside_its_factors(tmp_path: Path, own: bool) -> None:
    """PEFT keeps the head that it trained factors for: the base's own needn't be taken along, another must."""
    base = write_llama(tmp_path / "base")
    rng = np.random.default_rng(3)
    arrays = lora_arrays(llama_config(), attention_modules(2)) | {
        "lm_head.lora_A.weight": rng.standard_normal((4, 64)).astype(np.float32),
        "lm_head.lora_B.weight": rng.standard_normal((384, 4)).astype(np.float32),
        "lm_head.base_layer.weight": llama_weights(llama_config(), 0 if own else 9)["lm_head.weight"],
    }
    write_adapter(tmp_path / "lora", arrays, target_modules=["q_proj", "v_proj", "lm_head"])
    if own:
        assert_applied(tmp_path)
        return
    with pytest.raises(AdapterError, match="lm_head.weight was trained whole"):
        convert_adapter(tmp_path / "lora", base, tmp_path / "a.gguf")
