"""Checkpoints: read right (safetensors' own writer and torch as oracles), and refused when unsound."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.converters.checkpoint import Checkpoint
from edgekit.errors import EdgekitError, InputError, UnsupportedModelError
from edgekit.safetensors_file import SafetensorsFile
from tests.models import llama_config, llama_weights, save, write_llama, write_sidecars


def one_tensor(folder: Path, array: Any, **config: Any) -> Checkpoint:
    write_sidecars(folder, llama_config(**config))
    save(folder / "model.safetensors", {"w.weight": array})
    return Checkpoint(folder)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_reads_what_was_written(tmp_path: Path, dtype: Any) -> None:
    array = np.random.default_rng(0).standard_normal((33, 17)).astype(dtype)
    checkpoint = one_tensor(tmp_path, array)
    assert np.array_equal(checkpoint.read("w.weight"), array.astype(np.float32))
    assert np.array_equal(checkpoint.read("w.weight", slice(5, 9)), array[5:9].astype(np.float32))


def test_reads_what_safetensors_wrote(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    arrays: dict[str, Any] = {"b": np.arange(12, dtype=np.float32).reshape(3, 4), "a": np.ones(5, np.float16)}
    write_sidecars(tmp_path, llama_config())
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = Checkpoint(tmp_path)
    for name, array in arrays.items():
        assert np.array_equal(checkpoint.read(name), array)


def test_shards_by_index(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m", shards=3)
    checkpoint = Checkpoint(folder)
    weights = llama_weights(llama_config())
    assert set(checkpoint.names()) == set(weights)
    assert len(checkpoint.files) == 3
    for name, array in weights.items():
        assert np.array_equal(checkpoint.read(name), array)


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
@pytest.mark.parametrize("layout", ["tensor", "row", "block"])
def test_eight_bit_floats_with_their_scales(tmp_path: Path, dtype: Any, layout: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    weight = (rng.standard_normal((10, 12)) * 4).astype(dtype)
    shape = {"tensor": (1,), "row": (10, 1), "block": (3, 3)}[layout]
    scale = rng.random(shape).astype(np.float32) + 0.5
    method: dict[str, Any] = {"quant_method": "fp8", "weight_block_size": [4, 5]}
    write_sidecars(tmp_path, llama_config(quantization_config=method))
    suffix = "_scale_inv" if layout == "block" else "_scale"
    save(tmp_path / "model.safetensors", {"w.weight": weight, f"w.weight{suffix}": scale})
    checkpoint = Checkpoint(tmp_path)
    assert list(checkpoint.names()) == ["w.weight"]
    kind = torch.float8_e4m3fn if dtype is ml_dtypes.float8_e4m3fn else torch.float8_e5m2
    wide = torch.from_numpy(weight.view(np.uint8).copy()).view(kind).float()
    factors = torch.from_numpy(scale)
    if layout == "block":
        factors = factors.repeat_interleave(4, 0)[:10].repeat_interleave(5, 1)[:, :12]
    expected = (wide * factors).numpy()
    np.testing.assert_allclose(checkpoint.read("w.weight"), expected, rtol=1e-6)
    np.testing.assert_allclose(checkpoint.read("w.weight", slice(3, 9)), expected[3:9], rtol=1e-6)
    turned = checkpoint.read_columns("w.weight", slice(2, 7))
    np.testing.assert_allclose(turned, expected[:, 2:7].T, rtol=1e-6)


def test_eight_bit_floats_without_scales_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="without their scales"):
        one_tensor(tmp_path, np.ones((4, 4), ml_dtypes.float8_e4m3fn))


def test_a_scale_beside_another_dtype_is_not_hidden(tmp_path: Path) -> None:
    write_sidecars(tmp_path, llama_config())
    save(
        tmp_path / "model.safetensors",
        {"w.weight": np.ones((2, 2), np.float32), "w.weight_scale": np.ones(1, np.float32)},
    )
    assert list(Checkpoint(tmp_path).names()) == ["w.weight", "w.weight_scale"]


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "mxfp4"])
def test_quantized_bases_are_refused(tmp_path: Path, method: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"already quantized \\({method}\\)"):
        one_tensor(tmp_path, np.ones((4, 4), np.float32), quantization_config={"quant_method": method})


def test_real_bnb_config_is_refused(tmp_path: Path, data: Path) -> None:
    (tmp_path / "config.json").write_text((data / "configs" / "Llama-3.2-1B.bnb8.config.json").read_text())
    with pytest.raises(UnsupportedModelError, match="already quantized"):
        Checkpoint(tmp_path)


def test_packed_weights_are_refused_by_their_dtype(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="not of a floating-point type"):
        one_tensor(tmp_path, np.ones((4, 4), np.int32))


def test_code_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="auto_map"):
        one_tensor(tmp_path, np.ones((4, 4), np.float32), auto_map={"AutoModel": "x.Y"})


def test_pickle_checkpoint_is_refused(tmp_path: Path) -> None:
    write_sidecars(tmp_path, llama_config())
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="pickle"):
        Checkpoint(tmp_path)


def test_missing_things(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the checkpoint is missing"):
        Checkpoint(tmp_path / "nowhere")
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InputError, match="the checkpoint is a file"):
        Checkpoint(file)
    write_sidecars(tmp_path / "empty", llama_config())
    with pytest.raises(InputError, match="no weights here"):
        Checkpoint(tmp_path / "empty")
    folder = write_llama(tmp_path / "m", shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match="a shard is missing") as caught:
        Checkpoint(folder)
    assert "model-00002-of-00002" in str(caught.value.path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/../../x", ""])
def test_index_that_leaves_the_folder(tmp_path: Path, name: str) -> None:
    folder = write_llama(tmp_path / "m", shards=2)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(InputError, match="leaves its folder"):
        Checkpoint(folder)


def test_link_that_leaves_the_folder(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(InputError, match="link leaves its folder"):
        Checkpoint(folder)


def test_links_of_a_download_cache_are_followed(tmp_path: Path) -> None:
    snapshot = write_llama(tmp_path / "models--x" / "snapshots" / "abc")
    blobs = tmp_path / "models--x" / "blobs"
    blobs.mkdir()
    (snapshot / "model.safetensors").rename(blobs / "1234")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1234")
    assert Checkpoint(snapshot).names()


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    write_sidecars(tmp_path, llama_config())
    for name in ("a", "b"):
        save(tmp_path / f"{name}.safetensors", {"w": np.ones(3, np.float32)})
    index = {"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="is there twice"):
        Checkpoint(tmp_path)


def raw(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"w": entry(offsets=[0, 1 << 60])}, b"", "unsound header"),
        ({"w": entry(shape=[1 << 60], offsets=[0, 8])}, bytes(8), "unsound header"),
        ({"w": entry(shape=[-1])}, bytes(8), "unsound header"),
        ({"w": entry(shape=[True, 2])}, bytes(8), "unsound header"),
        ({"w": entry(dtype="F7")}, bytes(8), "unsound header"),
        ({"w": entry(offsets=[0, 12])}, bytes(12), "unsound header"),
        ({"w": entry(offsets=[8, 16])}, bytes(8), "truncated"),
        ({"w": entry(offsets=[4, 12])}, bytes(12), "leaves a hole"),
        ({"w": entry(), "v": entry()}, bytes(8), "overlaps"),
        ({"w": entry()}, bytes(20), "size doesn't match"),
        ({"w": entry()}, bytes(7), "truncated"),
        ({"w": [1]}, b"", "unsound header"),
        ({"w": entry(dtype=["F32"])}, bytes(8), "unsound header"),
        ({"w": {**entry(), "x": 1}}, bytes(8), "unsound header"),
    ],
)
def test_unsound_headers(tmp_path: Path, header: Any, data: bytes, message: str) -> None:
    path = raw(tmp_path / "x.safetensors", json.dumps(header).encode(), data)
    with pytest.raises(InputError, match=message) as caught:
        SafetensorsFile(path)
    assert caught.value.path == str(path)


def test_headers_that_lie_about_their_size(tmp_path: Path) -> None:
    for length in (1 << 60, (1 << 64) - 1, 11 << 20, 100):
        path = raw(tmp_path / "x.safetensors", b"{}", length=length)
        with pytest.raises(InputError, match="not a sound safetensors header"):
            SafetensorsFile(path)
    for content in (b"", b"1234567", b"\0" * 8):
        (tmp_path / "y.safetensors").write_bytes(content)
        with pytest.raises(InputError):
            SafetensorsFile(tmp_path / "y.safetensors")


def test_duplicate_keys_and_depth_bombs(tmp_path: Path) -> None:
    body = json.dumps(entry())
    twice = f'{{"w": {body}, "w": {body}}}'.encode()
    with pytest.raises(InputError, match="'w' appears twice"):
        SafetensorsFile(raw(tmp_path / "a.safetensors", twice, bytes(8)))
    with pytest.raises(InputError, match="not readable as JSON"):
        SafetensorsFile(raw(tmp_path / "b.safetensors", b"[" * 100_000))


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    write_sidecars(tmp_path, llama_config())
    with pytest.raises(InputError, match="is a folder"):
        Checkpoint(tmp_path)


def test_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    checkpoint = one_tensor(tmp_path, np.ones((8, 8), np.float32))
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(InputError, match="became shorter"):
        checkpoint.read("w.weight")


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 400), bit=st.integers(0, 7))
def test_a_flipped_bit_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    path = folder / "x.safetensors"
    save(path, {"model.w": np.ones((4, 4), np.float32), "model.v": np.ones(4, np.float16)})
    blob = bytearray(path.read_bytes())
    blob[position % len(blob)] ^= 1 << bit
    path.write_bytes(blob)
    try:
        SafetensorsFile(path).close()
    except EdgekitError as error:
        assert str(path) in str(error)
