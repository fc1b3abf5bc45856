"""The oracle is llama_model_quantize, run on our own F32 file: the same types and the same bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import plan, presets, stream
from edgekit.errors import InputError
from tests.models import write_llama

MODELS: dict[str, dict[str, Any]] = {
    # Rows of 256 and 512, 4 queries a key-value head, tied; enough layers for every rule by layer.
    "grouped-tied": {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
                     "num_key_value_heads": 1, "num_hidden_layers": 17, "tie_word_embeddings": True},
    "untied": {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4,
               "num_hidden_layers": 9},
    # 64 doesn't divide by 256, 172 not even by 32: each fall-back, down to F16.
    "odd-rows": {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 8, "tie_word_embeddings": True},
    "odd-hidden": {"hidden_size": 72, "intermediate_size": 320, "num_attention_heads": 4, "num_key_value_heads": 2,
                   "num_hidden_layers": 3},
    # Llama 2 70B's numbers of layers and heads.
    "70b": {"hidden_size": 256, "intermediate_size": 32, "num_attention_heads": 8, "num_key_value_heads": 1,
            "num_hidden_layers": 80, "vocab_size": 300},
}  # fmt: skip
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: write_llama(folder / name, **changes) for name, changes in MODELS.items()}


@pytest.fixture(scope="module")
def f32(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("f32")
    return {name: write(path, folder / f"{name}.gguf", "F32") for name, path in checkpoints.items()}


def write(checkpoint: Path, target: Path, preset: str, *overrides: str) -> Path:
    layout = plan.lay_out(Checkpoint(checkpoint), checkpoint, "test")
    chosen = plan.plan(layout, presets.preset(preset), [presets.Override.parse(text) for text in overrides])
    stream.write([chosen], [target], 2)
    return target


def quantize(source: Path, target: Path, file_type: int, override: tuple[str, int] | None = None) -> Path:
    """llama.cpp's own quantizer."""
    import llama_cpp

    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 2
    kept = None
    if override:
        kept = (llama_cpp.llama_model_tensor_override * 2)()
        kept[0].pattern, kept[0].type = override[0].encode(), override[1]
        params.tt_overrides = ctypes.cast(kept, type(params.tt_overrides))
    try:
        status = llama_cpp.llama_model_quantize(
            str(source).encode(), str(target).encode(), ctypes.byref(params)
        )
    finally:
        from edgekit.runtimes import _llamalib

        _llamalib.load.cache_clear()
        _llamalib.load()
    assert status == 0
    return target


def assert_same_tensors(ours: Path, theirs: Path) -> None:
    expected = {tensor.name: tensor for tensor in gguf.GGUFReader(theirs).tensors}
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(ours).tensors}
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert tensor.tensor_type == expected[name].tensor_type, name
        assert np.array_equal(tensor.data, expected[name].data), name


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("preset", presets.PRESETS)
def test_types_and_bytes_are_those_of_llama_cpp(
    checkpoints: dict[str, Path], f32: dict[str, Path], tmp_path: Path, model: str, preset: str
) -> None:
    ours = write(checkpoints[model], tmp_path / "ours.gguf", preset)
    theirs = quantize(f32[model], tmp_path / "theirs.gguf", int(presets.PRESETS[preset].file_type))
    assert_same_tensors(ours, theirs)
    keys = {key: field.contents() for key, field in gguf.GGUFReader(ours).fields.items()}
    assert keys == {key: field.contents() for key, field in gguf.GGUFReader(theirs).fields.items()}


def test_overrides_are_those_of_llama_cpp(
    checkpoints: dict[str, Path], f32: dict[str, Path], tmp_path: Path
) -> None:
    pattern = r"blk\.[0-4]\.(ffn_down|attn_v)"
    ours = write(checkpoints["untied"], tmp_path / "ours.gguf", "Q4_K_M", f"{pattern}=q8_0")
    theirs = quantize(
        f32["untied"], tmp_path / "theirs.gguf", int(presets.PRESETS["Q4_K_M"].file_type),
        (pattern, int(gguf.GGMLQuantizationType.Q8_0)),
    )  # fmt: skip
    assert_same_tensors(ours, theirs)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(ours).tensors}
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"


def test_names_in_any_case_and_short() -> None:
    assert presets.preset("q4_k_m").name == "Q4_K_M"
    assert presets.preset("Q4_K").name == "Q4_K_M"


def test_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(InputError) as caught:
        presets.preset("Q4_K_X")
    assert "did you mean Q4_K_" in str(caught.value)


@pytest.mark.parametrize("text", ["ffn_down", "ffn_down=q9", "=q8_0", "(=q8_0"])
def test_unreadable_overrides(text: str) -> None:
    with pytest.raises(InputError, match="can't read"):
        presets.Override.parse(text)


def test_an_override_that_fits_nothing_is_an_error() -> None:
    override = presets.Override.parse("ffn_dwon=q8_0")
    with pytest.raises(InputError, match="fits no tensor"):
        presets.assign(
            {"blk.0.ffn_down.weight": (4, 256)}, presets.PRESETS["Q4_K_M"], presets.Model(1, 4, 4), [override]
        )
