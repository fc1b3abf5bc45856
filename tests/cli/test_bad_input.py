"""Everything a user can name wrongly, at every place where a command takes a file: one red message, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit import cli
from tests.conftest import ADAPTER, BASE, ROOT
from tests.models import write_llama

FOLDER = ROOT / "examples" / "restaurant" / "task"
CASES, WEIGHTS = FOLDER / "test.jsonl", BASE / "model.safetensors"
TASK = ("--schema", FOLDER / "schema.json", "--prompt", "{text}")
ASKED = ("--prompt", FOLDER / "prompt.txt")

ENTRIES: dict[str, Callable[[Path, Path], list[object]]] = {
    "build: base": lambda bad, out: ["build", bad, "-o", out],
    "build: adapter": lambda bad, out: ["build", BASE, "--adapter", bad, "-o", out],
    "build: project": lambda bad, out: ["build", "--project", bad],
    "build: calibration": lambda bad, out: ["build", BASE, "--calibration", bad, "-o", out],
    "calibrate: base": lambda bad, out: ["calibrate", bad, "--data", CASES, "-o", out / "m.gguf", *ASKED],
    "calibrate: adapter": lambda bad, out: [
        "calibrate",
        BASE,
        "--adapter",
        bad,
        "--data",
        CASES,
        "-o",
        out / "m.gguf",
        *ASKED,
    ],
    "calibrate: data": lambda bad, out: ["calibrate", BASE, "--data", bad, "-o", out / "m.gguf", *ASKED],
    "inspect": lambda bad, out: ["inspect", bad],
    "inspect: base": lambda bad, out: ["inspect", ADAPTER, "--base", bad],
    "convert-adapter": lambda bad, out: ["convert-adapter", bad, "--base", BASE, "-o", out / "a.gguf"],
    "convert-adapter: base": lambda bad, out: [
        "convert-adapter",
        ADAPTER,
        "--base",
        bad,
        "-o",
        out / "a.gguf",
    ],
    "verify": lambda bad, out: ["verify", bad],
    "run: bundle": lambda bad, out: ["run", bad, "-p", "hello"],
    "chat": lambda bad, out: ["chat", bad],
    "extract: bundle": lambda bad, out: ["extract", bad, CASES, "-o", out / "o.jsonl"],
    "extract: input": lambda bad, out: ["extract", WEIGHTS, bad, "-o", out / "o.jsonl", *TASK],
    "extract: schema": lambda bad, out: ["extract", WEIGHTS, CASES, "-o", out / "o.jsonl", "--schema", bad],
    "extract: prompt": lambda bad, out: [
        "extract",
        WEIGHTS,
        CASES,
        "-o",
        out / "o.jsonl",
        "--prompt",
        f"@{bad}",
    ],
    "eval: bundle": lambda bad, out: ["eval", bad, "--text", CASES],
    "eval: prompt": lambda bad, out: ["eval", WEIGHTS, "--task", CASES, "--prompt", f"@{bad}"],
    "eval: schema": lambda bad, out: ["eval", WEIGHTS, "--task", CASES, "--schema", bad],
    "review": lambda bad, out: ["review", bad, "-o", out / "o.jsonl"],
}


def missing(folder: Path) -> Path:
    return folder / "nothing-here"


def long_name(folder: Path) -> Path:
    return folder / ("x" * 300)


def long_path(folder: Path) -> Path:
    return folder.joinpath(*["y" * 200] * 25)


def loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def dangling(folder: Path) -> Path:
    (folder / "dangling").symlink_to(folder / "gone")
    return folder / "dangling"


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def empty_file(folder: Path) -> Path:
    (folder / "empty.gguf").touch()
    return folder / "empty.gguf"


def garbage(folder: Path) -> Path:
    (folder / "garbage.gguf").write_bytes(bytes(range(256)) * 64)
    return folder / "garbage.gguf"


def device(folder: Path) -> Path:
    return Path("/dev/zero")


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def control_characters(folder: Path) -> Path:
    (folder / "a\x1b[31m\x07b\nc").mkdir()
    return folder / "a\x1b[31m\x07b\nc"


def surrogates(folder: Path) -> Path:
    name = os.fsdecode(bytes(folder) + b"/\xff\xfe")
    os.mkdir(name)
    return Path(name)


KINDS = (
    missing, long_name, long_path, loop, dangling, empty_folder, empty_file, garbage, device, pipe,
    control_characters, surrogates,
)  # fmt: skip


@pytest.fixture(autouse=True)
def same_signals() -> Iterator[None]:
    """The command line takes SIGTERM as Ctrl-C: give the test run its own back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def refused(
    arguments: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Run a command that must fail as bad input; its message."""
    monkeypatch.setattr(sys, "argv", ["edgekit", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    output = capsys.readouterr()
    assert stopped.value.code in (1, 2), output
    assert output.out == ""
    assert "\x1b[31m\x07" not in output.err
    return output.err


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("entry", ENTRIES)
def test_wrong_paths(
    entry: str,
    kind: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = kind(tmp_path)
    message = refused(ENTRIES[entry](bad, tmp_path / "dist"), monkeypatch, capsys)
    assert message.lower().startswith(("error: ", "usage: "))
    assert not list((tmp_path / "dist").glob("*"))


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_permission(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root may read everything: the system's refusal is made here, for files and folders below one."""
    bad = write_llama(tmp_path / "closed")

    def deny(path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike) and "closed" in os.fsdecode(path):
            raise PermissionError(13, "Permission denied", os.fsdecode(path))

    real_open, real_stat = os.open, os.stat

    def open_(path: str, *rest: int, **named: int) -> int:
        deny(path)
        return real_open(path, *rest, **named)

    def stat(path: str, **named: bool) -> os.stat_result:
        deny(path)
        return real_stat(path, **named)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "stat", stat)
    message = refused(ENTRIES[entry](bad, tmp_path / "dist"), monkeypatch, capsys)
    assert "closed" in message and "ermission" in message


def test_a_terminal_that_knows_ascii_only(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "modèle-日本")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for arguments, code, shown in (
        (["inspect", folder], 0, b"converts to GGUF"),
        (["inspect", folder / "ñ"], 1, b"nothing is here"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", *map(str, arguments)],
            capture_output=True,
            env=environment,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr
        assert shown in done.stdout + done.stderr
