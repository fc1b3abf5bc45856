"""The pass itself: what it writes, what it says, and how it stops."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import chunks, ggml, plan, presets, stream
from edgekit.converters.gguf.family import Part
from edgekit.errors import InputError, RuntimeUnavailableError
from tests.models import llama_config, llama_weights, save, write_llama, write_sidecars


def layout_of(folder: Path) -> plan.Layout:
    return plan.lay_out(Checkpoint(folder), folder, "test")


def test_several_files_in_one_pass_are_those_of_several_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 1000)
    layout = layout_of(write_llama(tmp_path / "m"))
    names = ("Q8_0", "Q4_0", "F16")
    plans = [plan.plan(layout, presets.preset(name)) for name in names]
    stream.write(plans, [tmp_path / f"{name}.gguf" for name in names], 3)
    for one, name in zip(plans, names, strict=True):
        stream.write([one], [tmp_path / "alone.gguf"], 1)
        assert (tmp_path / "alone.gguf").read_bytes() == (tmp_path / f"{name}.gguf").read_bytes()
        (tmp_path / "alone.gguf").unlink()


def test_reports_every_weight_once(tmp_path: Path) -> None:
    layout = layout_of(write_llama(tmp_path / "m"))
    seen: dict[str, int] = {}

    def report(tensor: str, weights: int) -> None:
        seen[tensor] = seen.get(tensor, 0) + weights

    timing = stream.write(
        [plan.plan(layout, presets.preset("Q8_0"))], [tmp_path / "a.gguf"], 2, report=report
    )
    assert seen == {tensor.name: int(np.prod(tensor.shape)) for tensor in layout.tensors}
    assert 0 < timing.quantizing <= timing.total


def test_the_proof_sees_a_loadable_header_before_any_tensor_is_read(tmp_path: Path) -> None:
    layout = layout_of(write_llama(tmp_path / "m"))
    seen: list[int] = []

    def prove(path: Path) -> None:
        seen.append(len(gguf.GGUFReader(path).tensors))
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        stream.write([plan.plan(layout, presets.preset("F32"))], [tmp_path / "a.gguf"], 2, prove=prove)
    assert seen == [len(layout.tensors)]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("preset", sorted(set(presets.PRESETS) - {"Q1_0"}))  # it has no fall-back
def test_weights_that_are_not_finite_are_an_error(tmp_path: Path, preset: str, value: float) -> None:
    config = llama_config(num_hidden_layers=1)
    write_sidecars(tmp_path, config)
    weights = llama_weights(config)
    weights["model.layers.0.mlp.up_proj.weight"][3, 3] = value
    save(tmp_path / "model.safetensors", weights)
    with pytest.raises(InputError, match="up_proj.*holds values that no file takes"):
        stream.write([plan.plan(layout_of(tmp_path), presets.preset(preset))], [tmp_path / "a.gguf"], 2)


def test_numbers_too_large_for_f16_are_an_error(tmp_path: Path) -> None:
    config = llama_config()
    write_sidecars(tmp_path, config)
    weights = llama_weights(config)
    weights["lm_head.weight"][0, 0] = 1e6
    save(tmp_path / "model.safetensors", weights)
    with pytest.raises(InputError, match="try BF16"):
        stream.write([plan.plan(layout_of(tmp_path), presets.preset("F16"))], [tmp_path / "a.gguf"], 2)


def test_an_error_in_one_thread_stops_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 64)
    layout = layout_of(write_llama(tmp_path / "m"))
    count = 0

    def report(tensor: str, weights: int) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream.write([plan.plan(layout, presets.preset("Q8_0"))], [tmp_path / "a.gguf"], 2, report=report)
    assert count < 20
    assert not [t for t in threading.enumerate() if t.name.startswith("quantize")]


def test_a_file_that_can_not_be_created(tmp_path: Path) -> None:
    layout = layout_of(write_llama(tmp_path / "m"))
    with pytest.raises(InputError, match="writing failed"):
        stream.write([plan.plan(layout, presets.preset("F32"))], [tmp_path / "no" / "a.gguf"], 1)


def test_without_llama_cpp_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_: str) -> Any:
        return None

    monkeypatch.setattr(ggml, "find_spec", nothing)
    ggml.load.cache_clear()
    with pytest.raises(RuntimeUnavailableError, match="llama-cpp-python is not installed") as caught:
        ggml.load()
    assert "pip install" in str(caught.value)


def test_every_chunk_is_read_ahead_once_and_in_order() -> None:
    rows = {"a": 100, "b": 7, "c": 31, "d": 1}
    todo = [
        chunks.Chunk(index, (Part(name, start, min(start + 3, count)),))
        for index, (name, count) in enumerate(rows.items())
        for start in range(0, count, 3)
    ]
    todo.insert(1, chunks.Chunk(9, ()))
    ahead = chunks.windows(todo)
    seen = [(part.source, row) for part in ahead if part for row in range(part.start, part.stop)]
    assert seen == [(name, row) for name, count in rows.items() for row in range(count)]
    for part, chunk in zip(ahead, todo, strict=True):
        assert part is None or (part.source, part.start) == (chunk.parts[0].source, chunk.parts[0].start)
    assert sum(part is not None for part in ahead) < len(todo) / 3


def test_weights_whose_squares_overflow_are_still_finite(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    weights = llama_weights(llama_config())
    weights["model.norm.weight"][...] = 1e30
    save(folder / "model.safetensors", weights)
    stream.write([plan.plan(layout_of(folder), presets.preset("F32"))], [tmp_path / "a.gguf"], 1)
    norm = next(t for t in gguf.GGUFReader(tmp_path / "a.gguf").tensors if t.name == "output_norm.weight")
    assert (norm.data == np.float32(1e30)).all()
