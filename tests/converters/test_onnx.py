"""onnxruntime-genai's builder in its process: what it makes, what it refuses, and how it ends where it is interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.converters import onnx
from edgekit.converters.child import Export
from edgekit.errors import HardwareError, InputError, RuntimeUnavailableError, UnsupportedModelError
from edgekit.onnx_header import places, read_tensors
from edgekit.onnx_settings import BUILDABLE, OnnxSettings, precision
from edgekit.settings import parse
from tests.models import write_llama


@pytest.fixture
def builder() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime_genai")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "base", intermediate_size=128)


def export(checkpoint: Path, out: Path, name: str = "INT4", settings: str = "") -> Export:
    return onnx.export(
        checkpoint, out, name, parse(settings.split(), OnnxSettings, "an ONNX export"), lambda *_: None
    )


@pytest.mark.usefixtures("builder")
def test_an_export_with_its_time_and_peak(checkpoint: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    found = onnx.export(
        checkpoint, tmp_path / "out", "INT4", OnnxSettings(), lambda what, _: heard.append(what)
    )
    assert found.seconds > 0 and found.peak is not None and found.peak > 100e6
    assert sum("layer" in what for what in heard) >= 2
    tensors = read_tensors(tmp_path / "out" / "model.onnx")
    assert places(tensors) == ["model.onnx.data"]
    assert {"INT4", "F32"} <= {one.type_name for one in tensors}
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()


@pytest.mark.usefixtures("builder")
def test_each_setting_reaches_the_graph(checkpoint: Path, tmp_path: Path) -> None:
    seen = []
    for changed in ("", "block_size=64", "symmetric=false", "algorithm=k_quant", "accuracy_level=1"):
        out = tmp_path / (changed or "plain")
        export(checkpoint, out, settings=changed)
        seen.append((out / "model.onnx").read_bytes() + (out / "model.onnx.data").read_bytes())
    assert len(set(seen)) == 5


@pytest.mark.usefixtures("builder")
def test_widths_that_zero_points_do_not_fit_are_told_what_does(tmp_path: Path) -> None:
    odd = write_llama(tmp_path / "base", intermediate_size=96)
    with pytest.raises(InputError, match="symmetric=true"):
        export(odd, tmp_path / "out", settings="symmetric=false")
    export(odd, tmp_path / "other")


@pytest.mark.usefixtures("builder")
def test_a_model_that_the_builder_does_not_know_is_named(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"architectures": ["BertForMaskedLM"], "model_type": "bert"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError) as caught:
        export(checkpoint, tmp_path / "out")
    said = str(caught.value)
    assert "BertForMaskedLM" in said and "config.json" in said and "--format gguf" in said


@pytest.mark.usefixtures("builder")
def test_what_the_builder_says_last_is_told(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="builder failed") as caught:
        export(checkpoint, tmp_path / "out")
    assert caught.value.found and "Error" in str(caught.value.found)


@pytest.mark.usefixtures("builder")
def test_an_interrupt_ends_the_builder(checkpoint: Path, tmp_path: Path) -> None:
    def interrupted(what: str, _: int) -> None:
        raise KeyboardInterrupt

    before = set(_children())
    with pytest.raises(KeyboardInterrupt):
        onnx.export(checkpoint, tmp_path / "out", "INT4", OnnxSettings(), interrupted)
    assert set(_children()) <= before


def _children() -> Iterator[int]:
    import psutil

    for one in psutil.Process(os.getpid()).children():
        yield one.pid


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "NEEDED", ("json", "nothing_of_that_name"))
    with pytest.raises(RuntimeUnavailableError) as caught:
        onnx.check()
    assert "nothing_of_that_name" in str(caught.value) and "pip install 'edgekit[onnx-build]'" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("does", "kind", "words"),
    [
        # As where torch is built for another CUDA, or transformers wants a newer torch.
        (
            "raise ImportError('transformers 9 needs torch 3, found torch 2')",
            RuntimeUnavailableError,
            "found torch 2",
        ),
        ("raise MemoryError", HardwareError, "too little memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", HardwareError, "memory is short"),
        ("raise SystemExit('Error: no reason that is known')", InputError, "no reason that is known"),
    ],
)
def test_how_a_builder_ended_says_who_can_act(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    does: str,
    kind: type[Exception],
    words: str,
) -> None:
    folder = tmp_path / "broken" / "onnxruntime_genai" / "models"
    folder.mkdir(parents=True)
    for place in (folder, folder.parent):
        (place / "__init__.py").write_text("")
    (folder / "builder.py").write_text(does)
    monkeypatch.setattr(onnx, "check", lambda: None)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    with pytest.raises(kind, match=words):
        export(checkpoint, tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "words"),
    [("block_size=7", "block_size"), ("speed=9", "speed"), ("symmetric", "KEY=VALUE"), ("provider=npu", "provider"),
     ("accuracy_level=9", "accuracy_level"), ("algorithm=none", "algorithm")],
)  # fmt: skip
def test_settings_that_there_are_not(given: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse([given], OnnxSettings, "an ONNX export")


def test_precisions_that_a_provider_has_not() -> None:
    assert precision("f32", OnnxSettings()) == "FP32"
    for provider, names in BUILDABLE.items():
        settings = parse([f"provider={provider}"], OnnxSettings, "an ONNX export")
        assert all(precision(name, settings) == name for name in names)
    with pytest.raises(InputError, match=r"INT4, INT8, FP32"):
        precision("FP16", OnnxSettings())
    with pytest.raises(InputError):
        precision("Q4_K_M", OnnxSettings())
