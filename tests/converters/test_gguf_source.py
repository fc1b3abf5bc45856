"""A GGUF model as the base: llama.cpp's requantizing is the oracle, and the checkpoint's own path for merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgekit.build import build
from edgekit.bundle import Bundle
from edgekit.converters.adapter import Adapter
from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import chunks, plan, presets, stream
from edgekit.converters.gguf.gguf_source import GgufSource
from edgekit.converters.gguf.presets import Model
from edgekit.converters.lora import Merged
from edgekit.errors import AdapterError, EdgekitError, InputError, UnsupportedModelError
from edgekit.progress import Progress
from edgekit.project import BuildSpec
from tests.converters.quantizer import assert_same_tensors, layout, quantize, random_matrix
from tests.converters.test_presets import DENSE, HEAD, held, layers
from tests.models import attention_modules, llama_config, lora_arrays, write_adapter, write_llama

SHAPES = layers(2, *DENSE) | HEAD | {"blk.0.attn_q.bias": (4,), "blk.0.shortconv.conv.weight": (4, 8)}


def write(laid: plan.Layout, target: Path, preset: str, **more: Any) -> Path:
    stream.write([plan.plan(laid, presets.preset(preset), **more)], [target], 2)
    return target


def requantized(base: Path, target: Path, preset: str, **more: Any) -> Path:
    source = GgufSource(base)
    try:
        return write(plan.lay_out_gguf(source, source, (), "any"), target, preset, **more)
    finally:
        source.close()


def keys_of(path: Path) -> dict[str, Any]:
    return {key: (field.types, field.contents()) for key, field in gguf.GGUFReader(path).fields.items()}


@pytest.mark.parametrize("stored", sorted(set(presets.PRESETS)))
def test_requantizing_gives_llama_cpps_bytes(
    tmp_path: Path, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 3 * 256)
    matrix = random_matrix(SHAPES)
    laid = layout(Model(2, 8, 2), SHAPES)
    base = write(laid, tmp_path / "base.gguf", stored, matrix=held(matrix))
    for name, values in (("Q4_K_M", None), ("F16", None), ("Q3_K_M", matrix)):
        ours = requantized(base, tmp_path / "ours.gguf", name, matrix=held(values))
        kind = int(presets.preset(name).file_type)
        theirs = tmp_path / "theirs.gguf"
        assert quantize(base, theirs, kind, matrix=values, allow_requantize=True) is not None
        assert_same_tensors(ours, theirs)


def test_keys_are_copied_as_they_are(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    base = write(plan.lay_out(Checkpoint(folder), folder, "given"), tmp_path / "base.gguf", "F16")
    ours = requantized(base, tmp_path / "ours.gguf", "Q8_0")
    theirs = tmp_path / "theirs.gguf"
    assert quantize(base, theirs, int(presets.preset("Q8_0").file_type)) is not None
    assert keys_of(ours) == keys_of(theirs)
    assert keys_of(ours)["general.name"][1] == "given" and len(keys_of(ours)) == 30
    again = requantized(ours, tmp_path / "again.gguf", "Q8_0")
    assert_same_tensors(again, ours)


def test_a_base_in_several_files(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    laid = plan.lay_out(Checkpoint(folder), folder, "test")
    whole = write(laid, tmp_path / "whole.gguf", "F16")
    write(laid, tmp_path / "base.gguf", "F16", split_size=50_000)
    first = min(tmp_path.glob("base-00001-of-*.gguf"))
    left, right = (requantized(base, tmp_path / f"{i}.gguf", "Q8_0") for i, base in enumerate((whole, first)))
    assert left.read_bytes() == right.read_bytes()


MODULES = [
    *attention_modules(2, ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"model.layers.{i}.mlp.{part}_proj" for i in range(2) for part in ("gate", "up", "down")),
]


@pytest.mark.parametrize("tied", [False, True])
def test_a_merge_is_the_same_as_into_the_checkpoint(tmp_path: Path, tied: bool) -> None:
    changes: dict[str, Any] = {"tie_word_embeddings": tied, "attention_bias": True}
    folder = write_llama(tmp_path / "m", **changes)
    arrays = lora_arrays(llama_config(attention_bias=True), [*MODULES, "lm_head"])
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
    lora = write_adapter(tmp_path / "lora", arrays, target_modules=targets)
    base = write(plan.lay_out(Checkpoint(folder), folder, "test"), tmp_path / "base.gguf", "F32")
    for preset in ("F32", "Q8_0"):
        merged = Merged(Checkpoint(folder), [(Adapter(lora), 1.0)])
        theirs = write(plan.lay_out(merged, folder, "test"), tmp_path / "theirs.gguf", preset)
        source = GgufSource(base, merging=True)
        merged = Merged(source, [(Adapter(lora), 1.0)])
        laid = plan.lay_out_gguf(merged, source, merged.changed, "test")
        assert_same_tensors(write(laid, tmp_path / "ours.gguf", preset), theirs)


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_only_some_architectures_hold_heads_in_another_order(tmp_path: Path, arch: str) -> None:
    shapes = {
        "token_embd.weight": (4, 256),
        "blk.0.attn_q.weight": (64, 256),
        "blk.0.attn_v.weight": (64, 256),
    }
    base = write(layout(Model(1, 4, 4, arch=arch), shapes), tmp_path / "base.gguf", "F32")
    stored = {t.name: t.data for t in gguf.GGUFReader(base).tensors}
    source = GgufSource(base, merging=True)
    source.config = {**source.config, "head_dim": 16}
    read = source.read("model.layers.0.self_attn.q_proj.weight")
    assert np.array_equal(
        source.read("model.layers.0.self_attn.v_proj.weight"), stored["blk.0.attn_v.weight"]
    )
    expected = stored["blk.0.attn_q.weight"]
    if arch == "llama":
        # Row 2i and 2i + 1 of a head are its i-th pair: i and i + half a head in the checkpoint.
        expected = expected.reshape(4, 8, 2, 256).transpose(0, 2, 1, 3).reshape(64, 256)
    assert np.array_equal(read, expected)
    assert np.array_equal(source.read("model.layers.0.self_attn.q_proj.weight", slice(5, 23)), expected[5:23])


class Notes(Progress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def test_a_build_from_a_gguf_file(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    base = write(plan.lay_out(Checkpoint(folder), folder, "test"), tmp_path / "tiny.gguf", "Q4_0")
    lora = write_adapter(tmp_path / "lora", lora_arrays(llama_config(), attention_modules(2)))
    told = Notes()
    spec = BuildSpec(base, tmp_path / "out", "mine", ((lora, 0.5),), ("Q8_0", "Q4_0"), threads=2)
    built = build(spec, told)
    assert "no tokenizer.json" in told.texts[0] and "quantized already (Q4_0)" in told.texts[1]
    opened = Bundle.open(built[1].folder)
    assert opened.problems() == []
    assert opened.manifest.provenance.base.name == "tiny"
    assert [file.path for file in opened.manifest.provenance.base.files] == ["tiny.gguf"]
    before = {t.name: t for t in gguf.GGUFReader(base).tensors}
    after = {t.name: t for t in gguf.GGUFReader(opened.artifact).tensors}
    assert np.array_equal(after["blk.0.attn_k.weight"].data, before["blk.0.attn_k.weight"].data)
    assert not np.array_equal(after["blk.0.attn_q.weight"].data, before["blk.0.attn_q.weight"].data)


@pytest.mark.parametrize(
    ("arch", "old", "new", "message"),
    [
        ("llama", b"\x05\0\0\0\0\0\0\0model", b"\x05\0\0\0\0\0\0\0adapt", "not a GGUF model"),
        ("llama", b"token_embd", b"token_embe", "without a model's weights"),
        ("llama", b"block_count", b"block_cound", "block_count is unsound"),
        ("glm5-next", b"", b"", "rules of its own"),
    ],
)
def test_what_is_not_a_model_is_refused(
    tmp_path: Path, arch: str, old: bytes, new: bytes, message: str
) -> None:
    base = write(layout(Model(1, 4, 4, arch=arch), layers(1, *DENSE)), tmp_path / "base.gguf", "F32")
    base.write_bytes(base.read_bytes().replace(old, new) if old else base.read_bytes())
    with pytest.raises(EdgekitError, match=message):
        GgufSource(base)


def test_adapters_need_an_architecture_whose_layout_is_known(tmp_path: Path) -> None:
    base = write(layout(Model(1, 4, 4, arch="falcon"), layers(1, "attn_qkv")), tmp_path / "base.gguf", "F32")
    GgufSource(base).close()
    with pytest.raises(UnsupportedModelError, match="aren't merged into a GGUF model"):
        GgufSource(base, merging=True)


def test_an_adapter_on_norms_does_not_fit(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    base = write(plan.lay_out(Checkpoint(folder), folder, "test"), tmp_path / "base.gguf", "F32")
    arrays = {"model.norm.weight": np.ones(64, np.float32)} | lora_arrays(
        llama_config(), attention_modules(2)
    )
    lora = write_adapter(tmp_path / "lora", arrays, modules_to_save=["norm"])
    with pytest.raises(AdapterError, match="no such tensor"):
        Merged(GgufSource(base, merging=True), [(Adapter(lora), 1.0)])


@pytest.mark.parametrize("preset", ["F32", "Q8_0"])
def test_numbers_that_are_not_finite_are_found_where_bytes_are_copied(tmp_path: Path, preset: str) -> None:
    base = write(layout(Model(1, 4, 4), layers(1, *DENSE)), tmp_path / "base.gguf", preset)
    tensor = next(t for t in gguf.GGUFReader(base).tensors if t.name == "blk.0.ffn_up.weight")
    blob = bytearray(base.read_bytes())
    blob[tensor.data_offset : tensor.data_offset + 4] = b"\xff\xff\xff\xff"
    base.write_bytes(blob)
    with pytest.raises(InputError, match="blk.0.ffn_up.weight"):
        requantized(base, tmp_path / "out.gguf", preset)


def test_names_that_stand_for_one_tensor_are_refused(tmp_path: Path) -> None:
    shapes = layers(1, *DENSE) | {"token_embd.weight": (4, 256), "model.embed_tokens.weight": (4, 256)}
    base = write(layout(Model(1, 4, 4, arch="llama"), shapes), tmp_path / "base.gguf", "F32")
    GgufSource(base).close()
    with pytest.raises(InputError, match="two tensors stand for one"):
        GgufSource(base, merging=True)
