"""The verdict on AMX code: from one trial in a process of its own, kept, and "no" wherever there is doubt."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.caches import cache_folder
from edgekit.runtimes import _amx, _llamalib
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions


class Trials:
    """Stands in for the process: how often it ran, and how it ends."""

    def __init__(self) -> None:
        self.count = 0
        self.end: int | BaseException = 0

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        assert command[0] == sys.executable and command[-1] == "edgekit.runtimes._amx" and options["timeout"]
        self.count += 1
        if isinstance(self.end, BaseException):
            raise self.end
        return subprocess.CompletedProcess(command, self.end)


@pytest.fixture
def trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trials]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = Trials()
    with monkeypatch.context() as patched:
        patched.setattr("subprocess.run", found)
        _amx.works.cache_clear()
        yield found
    _amx.works.cache_clear()


def asked_anew() -> bool:
    """As in a new process."""
    _amx.works.cache_clear()
    return _amx.works()


@pytest.mark.parametrize(("end", "verdict"), [(0, True), (1, False), (-4, False), (139, False)])
def test_tried_once_and_kept(trials: Trials, tmp_path: Path, end: int, verdict: bool) -> None:
    trials.end = end
    assert asked_anew() is verdict and _amx.works() is verdict
    assert trials.count == 1
    trials.end = 0 if end else 1
    assert asked_anew() is verdict and trials.count == 1
    (kept,) = (tmp_path / "edgekit").iterdir()
    assert json.loads(kept.read_text()) == {"works": verdict}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"works": "no"}', b'{"works": 1}', b'{"work": true}'],
)
def test_a_verdict_that_can_not_be_trusted_is_made_anew(trials: Trials, content: bytes) -> None:
    place = cache_folder() / _amx._name()
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    trials.end = 1
    assert asked_anew() is False and trials.count == 1
    assert json.loads(place.read_text()) == {"works": False}


@pytest.mark.parametrize("error", [OSError("no process"), subprocess.TimeoutExpired("python", 120)])
def test_a_trial_that_does_not_end_or_begin_is_a_no(trials: Trials, error: BaseException) -> None:
    trials.end = error
    assert asked_anew() is False


def test_a_place_that_can_not_be_written(
    trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert asked_anew() is True and trials.count == 1


def test_a_user_without_a_home(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number: ``Path.home()`` raises there."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert asked_anew() is True and trials.count == 1


def test_a_frozen_application_does_not_start_itself(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert asked_anew() is False and trials.count == 0


@pytest.mark.parametrize(
    ("has", "works", "extra"), [(True, False, False), (True, True, True), (False, False, True)]
)
def test_without_it_weights_stay_as_they_are(
    base_gguf: Path, monkeypatch: pytest.MonkeyPatch, has: bool, works: bool, extra: bool
) -> None:
    monkeypatch.setattr(_llamalib, "has_amx", lambda: has)
    monkeypatch.setattr(_amx, "works", lambda: works)
    lib = _llamalib.load()
    seen: list[bool] = []
    real = lib.llama_model_load_from_file

    def loading(path: bytes, params: Any) -> Any:
        seen.append(bool(params.use_extra_bufts))
        return real(path, params)

    monkeypatch.setattr(lib, "llama_model_load_from_file", loading)
    LlamaCppEngine(base_gguf, LlamaCppOptions(n_ctx=64, threads=1)).close()
    assert seen == [extra]


def test_the_trial_itself(tmp_path: Path) -> None:
    """Its model loads, and gives numbers that differ from token to token."""
    path = tmp_path / "trial.gguf"
    _amx._write(path)
    found = _amx._logits(path, extra=False)
    assert found.shape == (_amx.SIZE,) and np.isfinite(found).all() and found.std() > 0
