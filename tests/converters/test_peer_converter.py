"""The oracle is llama.cpp's own converter: of every family's tiny models the same keys, values, tensors and bytes.

`make soak` runs it where ``EDGEKIT_LLAMA_CPP`` names the folder of llama.cpp's sources.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest

from tests.converters import peer_driver
from tests.converters.cases import CASES
from tests.converters.oracles import make, to_gguf

pytestmark = pytest.mark.slow

OTHERS = ("tokenizer.", "general.", "GGUF.")
"""Keys of the tokenizer, the model card and the file itself, held elsewhere; the architecture's name is compared."""

WINDOW = "ends with the sliding window: llama.cpp computes none here, so that answers beyond it would differ"
NO_CAP = "turns off the cap of 30 that llama.cpp puts in where a file gives none; the model has none"

ACCEPTED: dict[str, dict[str, str]] = {
    "mistral-7b-v0.1": {"llama.context_length": WINDOW},
    "qwen2-linear-window": {"qwen2.context_length": WINDOW},
    "phi-3-4k": {"phi3.context_length": WINDOW},
    "gemma-4-31b": {"gemma4.final_logit_softcapping": NO_CAP},
    "gemma-4-untied": {"gemma4.final_logit_softcapping": NO_CAP},
    "gemma-4-e4b-it": {"gemma4.final_logit_softcapping": NO_CAP},
}
"""Keys and tensors, by case, in which edgekit differs from llama.cpp's converter on purpose, and why."""

REFUSED: dict[str, str] = {
    "granite-biases-llama3": "it has no name for rope_freqs in Granite, though llama.cpp's graph reads it",
    "stablelm-2-12b": "it loses the heads' norms (a generator that returns what it should yield), and says so",
}
"""Cases that llama.cpp's converter doesn't take, and why."""


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every case's checkpoint and what llama.cpp's converter made of it."""
    source = os.environ.get("EDGEKIT_LLAMA_CPP")
    if not source:
        pytest.skip("EDGEKIT_LLAMA_CPP is not set")
    out = tmp_path_factory.mktemp("peer")
    for name, case in CASES.items():
        make(case, out / name)
    folders = [str(out / name) for name in CASES]
    command = [sys.executable, peer_driver.__file__, source, *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def contents(path: Path) -> dict[str, Any]:
    """The architecture's keys with types and values, and every tensor with type, shape and bytes."""
    reader = gguf.GGUFReader(path)
    keys = {
        name: ([kind.name for kind in field.types], field.contents())
        for name, field in reader.fields.items()
        if name == "general.architecture" or not name.startswith(OTHERS)
    }
    tensors = {
        tensor.name: (tensor.tensor_type.name, tensor.shape.tolist(), tensor.data.tobytes())
        for tensor in reader.tensors
    }
    return keys | tensors


@pytest.mark.parametrize("name", CASES)
def test_the_file_is_that_of_llama_cpps_converter(name: str, peer: Path) -> None:
    refused = peer / f"{name}.refused"
    why = refused.read_text() if refused.exists() else ""
    assert bool(why) == (name in REFUSED), why or "it was converted"
    if why:
        return
    ours = contents(to_gguf(peer / name, peer / f"{name}.ours.gguf"))
    theirs = contents(peer / f"{name}.gguf")
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert differing == set(ACCEPTED.get(name, {}))
