"""Whole builds of checkpoints whose tokenizer isn't byte-level BPE in a tokenizer.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import edgekit
from edgekit.build import build
from edgekit.converters.gguf import tokenizers
from edgekit.errors import InputError
from edgekit.project import BuildSpec
from edgekit.runtimes.llamacpp import LlamaCppEngine
from tests.converters.test_spm import llama, protobuf, write
from tests.models import llama_config, llama_weights, save, write_sidecars


@pytest.fixture
def spec(tmp_path: Path) -> BuildSpec:
    """A tiny Llama with a SentencePiece tokenizer.model and nothing else."""
    base, content = tmp_path / "base", llama()
    config = llama_config(vocab_size=len(content["model"]["vocab"]), bos_token_id=1, eos_token_id=2)
    write_sidecars(base, config)
    (base / "tokenizer.json").unlink()
    (base / "tokenizer.model").write_bytes(protobuf(content))
    (base / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    save(base / "model.safetensors", llama_weights(config))
    return BuildSpec(base=base, out=tmp_path / "out", name="tiny", quantizations=("Q8_0",))


def test_a_sentencepiece_model_is_built_and_hashed(spec: BuildSpec) -> None:
    built = build(spec)[0]
    assert "tokenizer.model" in {file.path for file in built.manifest.provenance.base.files}
    engine = LlamaCppEngine(built.folder / "model.gguf", vocab_only=True)
    assert engine.bos_token == "<s>" and engine.eos_ids == {2}
    ids = engine.tokenize("The quick brown fox", special=False)
    assert b"".join(engine.token_bytes(token) for token in ids) == b" The quick brown fox"
    engine.close()
    with edgekit.load(built.folder) as model:
        first, again = (model.generate("The quick", raw=True, max_tokens=4, temperature=0) for _ in range(2))
        assert first == again


def test_a_tokenizer_that_goes_by_the_models_name(spec: BuildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    read = tokenizers.read

    def named(*arguments: object) -> object:
        return replace(read(*arguments), name_parts=("phi-3", "phi3"))  # type: ignore[arg-type]

    monkeypatch.setattr(tokenizers, "read", named)
    with pytest.raises(InputError, match="only in a model of its own name") as caught:
        build(spec)
    assert caught.value.next_step == "name the build phi-3-tiny" and list(spec.out.iterdir()) == []


def test_a_tokenizer_json_beside_is_what_is_proved(spec: BuildSpec) -> None:
    content = llama()
    content["added_tokens"] = content["added_tokens"][:3]
    content["model"]["merges"].reverse()  # the scores of tokenizer.model say otherwise
    write(spec.base, content)
    with pytest.raises(InputError, match="the tokenizer would not survive"):
        build(spec)
