"""Long fuzz runs over everything that comes from elsewhere: `make soak`. Each case runs in its own process."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ADAPTER, BASE

pytestmark = pytest.mark.slow

CASES = 60


def garble(path: Path, rng: random.Random, within: int) -> None:
    """Flip bits, cut, or overwrite a run of bytes among the first ``within``."""
    blob = bytearray(path.read_bytes())
    at = rng.randrange(min(within, len(blob)))
    kind = rng.randrange(4)
    if kind == 0:
        blob[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        blob[at : at + 8] = rng.randbytes(8)
    elif kind == 2:
        blob = blob[:at]
    else:
        blob[at : at + 8] = (rng.choice([0, 1 << 31, 1 << 60, (1 << 64) - 1])).to_bytes(8, "little")
    path.write_bytes(blob)


def run(*arguments: object) -> None:
    """A command may succeed or refuse; it may not crash, hang or show a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in {0, 1}, (done.returncode, done.stderr[-2000:])
    assert "Traceback" not in done.stderr, done.stderr[-2000:]


@pytest.mark.parametrize("seed", range(CASES))
def test_garbled_checkpoints(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    shutil.copytree(BASE, tmp_path / "base")
    name = rng.choice(
        ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
    )
    garble(tmp_path / "base" / name, rng, within=12_000)
    run("build", tmp_path / "base", "--quant", "Q8_0", "-o", tmp_path / "out")
    left = [p.name for p in (tmp_path / "out").iterdir()] if (tmp_path / "out").exists() else []
    assert left in ([], ["base-q8_0"])


@pytest.mark.parametrize("seed", range(CASES))
def test_garbled_adapters(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    shutil.copytree(ADAPTER, tmp_path / "lora")
    garble(
        tmp_path / "lora" / rng.choice(["adapter_model.safetensors", "adapter_config.json"]),
        rng,
        within=12_000,
    )
    run("inspect", tmp_path / "lora", "--base", BASE)


@pytest.mark.parametrize("seed", range(CASES))
def test_garbled_bundles(tmp_path: Path, bundles: Path, seed: int) -> None:
    rng = random.Random(seed)
    folder = tmp_path / "bundle"
    shutil.copytree(bundles / "restaurant-q4_k_m", folder)
    name = rng.choice(["model.gguf", "model.gguf", "manifest.json", "golden.json"])
    garble(folder / name, rng, within=100_000)
    run("inspect", folder)
    run("verify", folder, "--replay")
    run("run", folder, "-p", "Table for two", "--max-tokens", "8")
