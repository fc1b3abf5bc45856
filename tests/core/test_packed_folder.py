"""GPTQ and AWQ folders: what is sound is read, and what disagrees with itself is named before a runtime sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.choosing import artifact_of
from edgekit.describe import describe_packed
from edgekit.errors import BundleError, EdgekitError, UnsupportedModelError
from edgekit.packed_folder import read_packed
from tests.models import Arrays, llama_config, save

WIDE, FFN, GROUP = 64, 96, 32


def packed(method: str, bits: int, rows: int, columns: int, group: int) -> Arrays:
    """A weight as the method packs it, all zeros."""
    words = (rows * bits // 32, columns) if method == "gptq" else (rows, columns * bits // 32)
    groups = 1 if group == -1 else rows // group
    return {
        "qweight": np.zeros(words, np.int32),
        "qzeros": np.zeros((groups, columns * bits // 32), np.int32),
        "scales": np.ones((groups, columns), np.float16),
    }


def write(folder: Path, method: str = "gptq", bits: int = 4, group: int = GROUP, **config: Any) -> Path:
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {"model.embed_tokens.weight": np.zeros((384, WIDE), np.float16)}
    for name, rows, columns in (("mlp.up_proj", WIDE, FFN), ("mlp.down_proj", FFN, WIDE)):
        for part, array in packed(method, bits, rows, columns, group).items():
            arrays[f"model.layers.0.{name}.{part}"] = array
    save(folder / "model.safetensors", arrays)
    block = {"quant_method": method, "bits": bits, "group_size": group, "desc_act": False}
    (folder / "config.json").write_text(json.dumps(llama_config() | {"quantization_config": block} | config))
    (folder / "quantize_config.json").write_text(json.dumps(block))
    return folder


@pytest.mark.parametrize(
    ("method", "bits", "group"), [("gptq", 4, 32), ("gptq", 8, -1), ("awq", 4, 32), ("gptq", 2, 16)]
)
def test_what_a_sound_folder_says(tmp_path: Path, method: str, bits: int, group: int) -> None:
    folder = write(tmp_path / "m", method, bits, group)
    found = read_packed(folder)
    assert (found.method, found.bits, found.group_size, found.context) == (method, bits, group, 256)
    assert found.eos_ids == (llama_config()["eos_token_id"],) and len(found.files) == 3
    shape = artifact_of(folder / "model.safetensors").shape
    assert (shape.layers, shape.ffn, shape.trained, shape.n_vocab) == (2, FFN, 256, 384)
    assert (
        describe_packed(folder / "model.safetensors")["bytes_by_type"][f"INT{bits}"]
        == 2 * WIDE * FFN * bits // 8
    )


def test_a_window_bounds_the_context(tmp_path: Path) -> None:
    assert read_packed(write(tmp_path / "a", sliding_window=100)).context == 100
    assert read_packed(write(tmp_path / "b", sliding_window=100, use_sliding_window=False)).context == 256


def test_generation_config_knows_the_ends_best(tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert read_packed(folder).eos_ids == (7, 9)


def _edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return edit


def _block(**changes: Any) -> Callable[[Path], object]:
    """In both files, as one who wants it to be believed."""

    def both(folder: Path) -> None:
        _edit("config.json", lambda c: c["quantization_config"].update(changes))(folder)
        _edit("quantize_config.json", lambda c: c.update(changes))(folder)

    return both


def _weight(name: str, array: Any) -> Callable[[Path], object]:
    def other(folder: Path) -> None:
        arrays: dict[str, Any] = {
            f"model.layers.0.mlp.up_proj.{part}": one
            for part, one in packed("gptq", 4, WIDE, FFN, GROUP).items()
        }
        if array is None:
            del arrays[f"model.layers.0.mlp.up_proj.{name}"]
        else:
            arrays[f"model.layers.0.mlp.up_proj.{name}"] = array
        save(folder / "model.safetensors", arrays)

    return other


UNSOUND: dict[str, tuple[Callable[[Path], object], type[EdgekitError], str]] = {
    "other bits": (_block(bits=8), BundleError, "disagrees with the tensors"),
    "other groups": (_block(group_size=16), BundleError, "disagrees with the tensors"),
    "another method": (_block(quant_method="awq"), BundleError, "disagrees with the tensors"),
    "two answers": (_edit("quantize_config.json", lambda c: c.update(bits=8)), BundleError, "disagree"),
    "no method": (_edit("config.json", lambda c: c.pop("quantization_config")), BundleError, "no GPTQ or AWQ"),
    "strange bits": (_block(bits=5), BundleError, "no GPTQ or AWQ"),
    "no group": (_block(group_size=0), BundleError, "no GPTQ or AWQ"),
    "code of its own": (_edit("config.json", lambda c: c.update(auto_map={})), UnsupportedModelError, "code of its own"),
    "more than text": (_edit("config.json", lambda c: c.update(text_config={})), UnsupportedModelError, "more than text"),
    "no sizes": (_edit("config.json", lambda c: c.pop("vocab_size")), BundleError, "vocab_size"),
    "sizes beyond belief": (_edit("config.json", lambda c: c.update(hidden_size=1 << 40)), BundleError, "hidden_size"),
    "no scales": (_weight("scales", None), BundleError, "without scales"),
    "flat scales": (_weight("scales", np.ones(FFN, np.float16)), BundleError, "without scales"),
    "nothing packed": (_weight("qweight", None), BundleError, "no packed weight"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), BundleError, "model.safetensors"),
    "half a file": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:900]),
        BundleError, "model.safetensors",
    ),
    "no configuration": (lambda f: (f / "config.json").unlink(), BundleError, "config.json"),
    "an index that leads out": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}'),
        BundleError, "no plain files",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNSOUND)
def test_what_does_not_fit_together_is_named(tmp_path: Path, what: str) -> None:
    spoil, kind, words = UNSOUND[what]
    folder = write(tmp_path / "m")
    read_packed(folder)
    spoil(folder)
    with pytest.raises(kind) as caught:
        read_packed(folder)
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)
