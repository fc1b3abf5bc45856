"""A vocabulary that an adapter resized is packed with the adapter's tokenizer; what to know of a merge is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgekit.build import build
from edgekit.bundle import Bundle
from edgekit.cli import group
from edgekit.errors import AdapterError, InputError, UnsupportedModelError
from edgekit.gguf_header import GgufArray, read_header
from edgekit.project import BuildSpec
from tests.converters.oracles import to_gguf
from tests.models import attention_modules, llama_config, lora_arrays, write_adapter, write_llama

NEW = ("<|tool|>", "<|/tool|>")


def resized(folder: Path, rows: int, **config: Any) -> Path:
    """An adapter with an embedding and head of so many rows, as PEFT saves them unasked."""
    arrays = lora_arrays(llama_config(), attention_modules(2))
    rng = np.random.default_rng(0)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        arrays[name] = rng.standard_normal((rows, 64)).astype(np.float32)
    return write_adapter(folder, arrays, **config)


def add_tokens(base: Path, adapter: Path) -> None:
    """Save the base's tokenizer with new tokens beside the adapter."""
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] += [{"id": 384 + i, "content": text, **flags} for i, text in enumerate(NEW)]
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    words = json.loads((base / "tokenizer_config.json").read_text()) | {"chat_template": "{{ 'new' }}"}
    (adapter / "tokenizer_config.json").write_text(json.dumps(words))


def keys(artifact: Path) -> dict[str, Any]:
    return dict(read_header(artifact).keys)


def test_the_tokenizer_of_the_adapter_is_packed_and_named(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [380, 382]}))
    adapter = resized(tmp_path / "lora", 386)
    add_tokens(base, adapter)
    built = build(BuildSpec(base, tmp_path / "out", "tiny", ((adapter, 1.0),), ("Q8_0",), threads=1))
    found = keys(Bundle.open(built[0].folder).artifact)
    tokens = found["tokenizer.ggml.tokens"]
    assert isinstance(tokens, GgufArray) and tokens.length == 386 == found["llama.vocab_size"]
    assert found["tokenizer.chat_template"] == "{{ 'new' }}"
    assert 382 in {found["tokenizer.ggml.eos_token_id"], found["tokenizer.ggml.eot_token_id"]}
    named = [file.path for file in built[0].manifest.provenance.adapters[0].files]
    assert named == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def built(base: Path, adapter: Path, out: Path) -> Result:
    """`edgekit build`, as a user calls it."""
    return CliRunner().invoke(
        group, ["build", str(base), "--adapter", str(adapter), "-o", str(out), "--quant", "Q8_0"]
    )


def test_without_one_the_tokenizer_of_the_base_is_used_and_that_is_said(tmp_path: Path) -> None:
    base, adapter = write_llama(tmp_path / "base"), resized(tmp_path / "lora", 386)
    result = built(base, adapter, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "resized the vocabulary to 386 rows and brings no tokenizer.json" in result.stderr


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path) -> None:
    base, adapter = write_llama(tmp_path / "base"), resized(tmp_path / "lora", 385)
    add_tokens(base, adapter)
    spec = BuildSpec(base, tmp_path / "out", "tiny", ((adapter, 1.0),), ("Q8_0",), threads=1)
    with pytest.raises(InputError, match="385"):
        build(spec)
    assert not (tmp_path / "out").exists()


def test_a_quantized_base_is_said_by_build_and_inspect(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    arrays = lora_arrays(llama_config(), attention_modules(2))
    adapter = write_adapter(tmp_path / "lora", arrays, base_model_name_or_path="unsloth/llama-bnb-4bit")
    result = built(base, adapter, tmp_path / "out")
    assert result.exit_code == 0 and "note: lora: trained on a quantized base" in result.stderr
    result = CliRunner().invoke(group, ["inspect", str(adapter), "--base", str(base), "--json"])
    assert "merging into the 16-bit one is right" in json.loads(result.stdout)["notes"][0]


@pytest.mark.parametrize("kind", ["resized", "trained", "trained without a tokenizer"])
def test_a_gguf_base_keeps_its_tokenizer(tmp_path: Path, kind: str) -> None:
    base = write_llama(tmp_path / "base")
    gguf = to_gguf(base, tmp_path / "base.gguf", "F16")
    if kind == "resized":
        adapter = resized(tmp_path / "lora", 386)
    else:
        tokens = {"model.embed_tokens.token_adapter.trainable_tokens_delta": np.ones((2, 64), np.float32)}
        arrays = lora_arrays(llama_config(), attention_modules(2)) | tokens
        adapter = write_adapter(tmp_path / "lora", arrays, trainable_token_indices=[3, 5])
        if kind == "trained":
            add_tokens(base, adapter)
    spec = BuildSpec(gguf, tmp_path / "out", "tiny", ((adapter, 1.0),), ("Q8_0",), threads=1)
    if kind == "trained without a tokenizer":
        assert build(spec)
        return
    with pytest.raises(AdapterError, match="a GGUF base keeps"):
        build(spec)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arch", ["llama", "other"])
def test_inspect_holds_an_adapter_against_a_gguf_base(tmp_path: Path, arch: str) -> None:
    gguf = to_gguf(write_llama(tmp_path / "base"), tmp_path / "base.gguf", "F16")
    gguf.write_bytes(gguf.read_bytes().replace(b"llama", arch.encode()))
    adapter = write_adapter(tmp_path / "lora", lora_arrays(llama_config(), attention_modules(2)))
    result = CliRunner().invoke(group, ["inspect", str(adapter), "--base", str(gguf), "--json"])
    if arch == "llama":
        assert result.exit_code == 0 and json.loads(result.stdout)["fits"] is True
    else:
        assert isinstance(result.exception, UnsupportedModelError)
        assert "aren't merged into a GGUF model" in str(result.exception)
