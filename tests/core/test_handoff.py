"""Handing a model to llama.cpp's converter: what it is given, and what it is never given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgekit.build import build
from edgekit.errors import EdgekitError, InputError, UnsupportedModelError
from edgekit.project import BuildSpec
from tests.converters.oracles import to_gguf
from tests.models import (
    attention_modules,
    llama_config,
    llama_weights,
    lora_arrays,
    save,
    write_adapter,
    write_llama,
)

SCRIPT = """
import json, os, shutil, sys
folder, out = sys.argv[1], sys.argv[sys.argv.index("--outfile") + 1]
seen = {name: os.path.getsize(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}
with open(%(seen)r, "w") as file:
    json.dump({"name": os.path.basename(folder), "files": seen, "offline": os.environ.get("HF_HUB_OFFLINE")}, file)
shutil.copy(%(result)r, out)
"""


@pytest.fixture
def spec(tmp_path: Path) -> BuildSpec:
    """A model of another family, an adapter, and a script in llama.cpp's place that gives a file made before."""
    write_llama(tmp_path / "llama")
    base = write_llama(tmp_path / "base", architectures=["OtherForCausalLM"])
    lora = write_adapter(tmp_path / "lora", lora_arrays(llama_config(), attention_modules(2)))
    result = to_gguf(tmp_path / "llama", tmp_path / "result.gguf", "F32", lora)
    (tmp_path / "llama.cpp").mkdir()
    script = SCRIPT % {"seen": str(tmp_path / "seen.json"), "result": str(result)}
    (tmp_path / "llama.cpp" / "convert_hf_to_gguf.py").write_text(script)
    return BuildSpec(
        base, tmp_path / "out", "converted.gguf", ((lora, 1.0),), ("Q8_0",), llama_cpp=tmp_path / "llama.cpp"
    )


def test_the_merged_checkpoint_is_converted_quantized_and_dropped(spec: BuildSpec, tmp_path: Path) -> None:
    (built,) = build(spec)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert (seen["name"], seen["offline"]) == (spec.name, "1")
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} == set(
        seen["files"]
    )
    expected = to_gguf(tmp_path / "llama", tmp_path / "expected.gguf", "Q8_0", spec.adapters[0][0])
    ours, theirs = (
        {t.name: t.data for t in gguf.GGUFReader(path).tensors}
        for path in (built.folder / "model.gguf", expected)
    )
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert [path.name for path in spec.out.iterdir()] == [built.folder.name]


def test_what_the_converter_says_is_shown(spec: BuildSpec, tmp_path: Path) -> None:
    (tmp_path / "llama.cpp" / "convert_hf_to_gguf.py").write_text("raise SystemExit('not this one')")
    with pytest.raises(InputError, match="not this one"):
        build(spec)
    assert not list(spec.out.iterdir())


@pytest.mark.parametrize(
    "said", ["raise SystemExit(0)", "import sys; open(sys.argv[3], 'w').write('no model')"]
)
def test_a_converter_that_gives_no_model(spec: BuildSpec, tmp_path: Path, said: str) -> None:
    (tmp_path / "llama.cpp" / "convert_hf_to_gguf.py").write_text(said)
    with pytest.raises(EdgekitError):
        build(spec)
    assert not list(spec.out.iterdir())


def test_a_tokenizer_with_code_is_not_given_to_it(spec: BuildSpec, tmp_path: Path) -> None:
    """llama.cpp's converter opens tokenizers with trust_remote_code."""
    words = {"auto_map": {"AutoTokenizer": ["someone/else--tokenizer.Tokenizer", None]}}
    (spec.base / "tokenizer_config.json").write_text(json.dumps(words))
    with pytest.raises(UnsupportedModelError, match="code of its own"):
        build(spec)
    assert not (tmp_path / "seen.json").exists()


def test_what_a_known_family_refuses_is_not_handed_over(spec: BuildSpec, tmp_path: Path) -> None:
    """The converter takes a rotation that llama.cpp doesn't compute, and says nothing."""
    base = write_llama(tmp_path / "known", rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    with pytest.raises(UnsupportedModelError, match="rope scaling"):
        build(replace(spec, base=base))
    assert not (tmp_path / "seen.json").exists()


def test_what_a_known_family_has_no_place_for_is_handed_over(spec: BuildSpec, tmp_path: Path) -> None:
    config = llama_config()
    more = {"mtp.head.weight": np.zeros((4, 4), np.float32)}
    base = write_llama(tmp_path / "known")
    save(base / "model.safetensors", llama_weights(config) | more)
    build(replace(spec, base=base))
    assert (tmp_path / "seen.json").exists()
