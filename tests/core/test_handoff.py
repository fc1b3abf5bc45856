"""Models of other families: what reaches llama.cpp's converter, and what comes back. A stand-in converts here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgekit.build import build
from edgekit.errors import EdgekitError, UnsupportedModelError
from edgekit.progress import Progress
from edgekit.project import BuildSpec
from tests.models import (
    attention_modules,
    llama_config,
    llama_weights,
    lora_arrays,
    save,
    write_adapter,
    write_llama,
)

CONVERTER = """
import json, os, sys
from pathlib import Path
from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import plan, presets, stream

folder = Path(sys.argv[1])
assert os.environ["HF_HUB_OFFLINE"] == "1"
assert sys.argv[2] == "--outfile" and sys.argv[4:] == ["--outtype", "auto"]
config = json.loads((folder / "config.json").read_text())
assert config["architectures"] == ["FooForCausalLM"]
(folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
layout = plan.lay_out(Checkpoint(folder), folder, folder.name)
stream.write([plan.plan(layout, presets.preset("F32"))], [Path(sys.argv[3])], 1)
"""


@pytest.fixture
def spec(tmp_path: Path) -> BuildSpec:
    """A base of an unknown family, an adapter, and a llama.cpp folder."""
    base = write_llama(tmp_path / "base")
    (base / "config.json").write_text(json.dumps(llama_config() | {"architectures": ["FooForCausalLM"]}))
    write_adapter(tmp_path / "lora", lora_arrays(llama_config(), attention_modules(2)))
    (tmp_path / "llama.cpp").mkdir()
    (tmp_path / "llama.cpp" / "convert_hf_to_gguf.py").write_text(CONVERTER)
    return BuildSpec(base, tmp_path / "dist", "m", ((tmp_path / "lora", 1.0),), ("Q8_0", "F32"),
                     llama_cpp=tmp_path / "llama.cpp")  # fmt: skip


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_the_merged_model_goes_out_and_comes_back_as_bundles(spec: BuildSpec, tmp_path: Path) -> None:
    notes = Notes()
    built = build(spec, notes)
    assert "FooForCausalLM" not in str(notes.notes) and "llama.cpp's converter" in notes.notes[0]
    write_llama(spec.base)
    ours = build(replace(spec, llama_cpp=None, out=tmp_path / "ours"))
    for one, other in zip(built, ours, strict=True):
        readers = [gguf.GGUFReader(bundle.folder / "model.gguf") for bundle in (one, other)]
        found, expected = ({t.name: t for t in reader.tensors} for reader in readers)
        assert set(found) == set(expected)
        assert all(np.array_equal(found[name].data, expected[name].data) for name in found)
        assert readers[0].fields["general.name"].contents() == "m"
    assert [source.name for source in built[0].manifest.provenance.adapters] == ["lora"]
    assert {"config.json", "model.safetensors"} <= {f.path for f in built[0].manifest.provenance.base.files}
    assert sorted(path.name for path in spec.out.iterdir()) == ["m-f32", "m-q8_0"]


def test_a_family_that_is_known_needs_no_converter(spec: BuildSpec) -> None:
    write_llama(spec.base)
    (spec.llama_cpp or Path()).joinpath("convert_hf_to_gguf.py").write_text("raise SystemExit('not called')")
    assert len(build(spec)) == 2


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit('no such model')", "no such model"),
        ("", "no output"),
        ("import sys; open(sys.argv[3], 'w').write('no model')", "GGUF"),
        (None, "converter is missing"),
    ],
)
def test_a_converter_that_fails_leaves_nothing(spec: BuildSpec, script: str | None, message: str) -> None:
    path = (spec.llama_cpp or Path()) / "convert_hf_to_gguf.py"
    path.unlink()
    if script is not None:
        path.write_text(script)
    with pytest.raises(EdgekitError, match=message):
        build(spec)
    assert not spec.out.exists() or list(spec.out.iterdir()) == []


def test_without_it_the_family_is_refused_with_the_list(spec: BuildSpec) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        build(replace(spec, llama_cpp=None))
    assert "--with-llama-cpp" in str(caught.value) and "Qwen3ForCausalLM" in str(caught.value)


def test_an_adapter_that_does_not_fit_never_reaches_the_converter(spec: BuildSpec, tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", lora_arrays(llama_config(), attention_modules(1)))
    with pytest.raises(EdgekitError, match="is targeted"):
        build(spec)


def test_a_tokenizer_with_code_is_not_given_to_it(spec: BuildSpec) -> None:
    """llama.cpp's converter opens tokenizers with trust_remote_code."""
    words = {"auto_map": {"AutoTokenizer": ["someone/else--tokenizer.Tokenizer", None]}}
    (spec.base / "tokenizer_config.json").write_text(json.dumps(words))
    with pytest.raises(UnsupportedModelError, match="code of its own"):
        build(spec)


def test_what_a_known_family_refuses_is_not_handed_over(spec: BuildSpec, tmp_path: Path) -> None:
    """The converter takes a rotation that llama.cpp doesn't compute, and says nothing."""
    base = write_llama(tmp_path / "known", rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    with pytest.raises(UnsupportedModelError, match="rope scaling"):
        build(replace(spec, base=base))


def test_what_a_known_family_has_no_place_for_is_handed_over(spec: BuildSpec, tmp_path: Path) -> None:
    more = {"mtp.head.weight": np.zeros((4, 4), np.float32)}
    base = write_llama(tmp_path / "known")
    save(base / "model.safetensors", {**llama_weights(llama_config()), **more})
    with pytest.raises(EdgekitError, match="AssertionError"):
        build(replace(spec, base=base))
