"""Fixtures for all rooms: no network, tiny models made here, the one real small model, and the oracles' switch."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples every time: a run that finds something new belongs to a developer, not to someone else's CI.
settings.register_profile("ci", derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
# Spinning OpenMP threads of the oracles take ten times as long where cores are shared, as they are in CI.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
BASE = ROOT / "examples" / "restaurant" / "base"
ADAPTER = ROOT / "examples" / "restaurant" / "adapter"
ORACLES = ("torch", "transformers", "peft", "sklearn", "matplotlib")


class _Absent(MetaPathFinder):
    """Makes the oracles look uninstalled, to show that nothing but tests needs them."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in ORACLES:
            raise ModuleNotFoundError(f"No module named {fullname!r} (--without-oracles)", name=fullname)
        return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-oracles", action="store_true", help="run as if torch and its kin weren't installed"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-oracles"):
        sys.meta_path.insert(0, _Absent())


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anywhere fails the test."""

    def refuse(*_: object) -> None:
        raise AssertionError("a test tried to use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of further real data; tests that use it skip where it isn't given."""
    folder = os.environ.get("EDGEKIT_TEST_DATA")
    if not folder:
        pytest.skip("EDGEKIT_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def base() -> Path:
    """The real small base that ships with the examples."""
    return BASE


@pytest.fixture(scope="session")
def adapter() -> Path:
    """Its real LoRA adapter."""
    return ADAPTER


def built(out: Path, **changes: Any) -> Path:
    """A folder of bundles of the restaurant example."""
    from dataclasses import replace

    from edgekit.build import build
    from edgekit.project import read_project

    spec = read_project(ROOT / "examples" / "restaurant" / "edgekit.toml")
    build(replace(spec, out=out, **changes))
    return out


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of bundles of the restaurant example: restaurant-q8_0, restaurant-q4_k_m, restaurant-f32."""
    return built(tmp_path_factory.mktemp("dist"), quantizations=("Q8_0", "Q4_K_M", "F32"))


@pytest.fixture(scope="session")
def onnx_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as ONNX: restaurant-onnx-fp32 and restaurant-onnx-int4. Skips where what builds them isn't installed."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime_genai")
    return built(tmp_path_factory.mktemp("onnx"), format="onnx", quantizations=("FP32", "INT4"))


@pytest.fixture(scope="session")
def packed_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as GPTQ and AWQ: restaurant-gptq-int4 and restaurant-awq-int4. Skips where gptqmodel isn't installed."""
    pytest.importorskip("torch")
    pytest.importorskip("optimum")
    from edgekit.gptq_settings import GptqSettings

    out = tmp_path_factory.mktemp("packed")
    data = ROOT / "examples" / "restaurant" / "task" / "test.jsonl"
    for form in ("gptq", "awq"):
        built(out, format=form, quantizations=("INT4",), calibration=data, gptq=GptqSettings(samples=48))
    return out


@pytest.fixture(scope="session")
def base_gguf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The base alone as a Q8_0 GGUF."""
    from edgekit.build import build
    from edgekit.project import BuildSpec

    out = tmp_path_factory.mktemp("base")
    built = build(BuildSpec(base=BASE, out=out, name="base", quantizations=("Q8_0",)))
    yield built[0].folder / "model.gguf"
