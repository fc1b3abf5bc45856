"""Long fuzz runs over everything that comes from elsewhere: `make soak`. Each case runs in its own process."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ADAPTER, BASE
from tests.models import attention_modules, llama_config, lora_arrays, write_adapter, write_llama

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


WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 31, 1 << 63, 10**30, 0.5, 1e-320, float("nan"), float("inf"), "", "x", "../x", "\0", "\ud800",
    "x" * 5000, [], [None], [[]], [1, 2, 3], {}, {"": None}, {"rope_type": []}, ["full_attention"],
)  # fmt: skip
FAMILIES = (
    "Llama",
    "Mistral",
    "Qwen2",
    "Qwen3",
    "Granite",
    "SmolLM3",
    "Gemma",
    "Gemma2",
    "Gemma3",
    "Phi3",
    "Mixtral",
)
KEYS = {
    "config.json": (
        "rope_scaling", "rope_parameters", "layer_types", "head_dim", "sliding_window", "hidden_activation", "n_layer",
        "num_experts", "quantization_config", "text_config", "eos_token_id", "tie_word_embeddings",
    ),
    "adapter_config.json": (
        "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices", "target_parameters",
        "layers_to_transform", "layers_pattern", "exclude_modules", "use_dora", "lora_bias", "lora_parameters",
    ),
    "tokenizer.json": ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model", "added_tokens"),
}  # fmt: skip
"""What the files may hold but don't, or hold at their top."""


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every object or list of a JSON value with each of its keys, the first few of long ones."""
    items = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    for key, inner in items[:24]:
        yield value, key
        yield from places(inner)


def distort(path: Path, rng: random.Random) -> None:
    """Keep a file readable as JSON, and put something else in one to three of its places."""
    content = json.loads(path.read_text())
    for _ in range(rng.randint(1, 3)):
        holder, key = rng.choice([*places(content), *((content, key) for key in KEYS[path.name])])
        if rng.random() < 0.2:
            holder.pop(key) if isinstance(holder, list) else holder.pop(key, None)
        else:
            holder[key] = rng.choice(WRONG)
    path.write_text(json.dumps(content))


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


@pytest.mark.parametrize("seed", range(CASES))
def test_distorted_json(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    changes: dict[str, Any] = (
        {"architectures": [f"{rng.choice(FAMILIES)}ForCausalLM"]} if rng.random() < 0.5 else {}
    )
    base = write_llama(tmp_path / "base", **changes)
    lora = write_adapter(tmp_path / "lora", lora_arrays(llama_config(), attention_modules(2)))
    name = rng.choice(list(KEYS))
    distort((lora if name == "adapter_config.json" else base) / name, rng)
    run("inspect", base)
    run("inspect", lora, "--base", base)
    run("convert-adapter", lora, "--base", base, "-o", tmp_path / "lora.gguf")
    run("build", base, "--adapter", lora, "--quant", "Q8_0", "-o", tmp_path / "out")
    left = [p.name for p in (tmp_path / "out").iterdir()] if (tmp_path / "out").exists() else []
    assert left in ([], ["lora-q8_0"]) and not list(tmp_path.glob(".*"))
