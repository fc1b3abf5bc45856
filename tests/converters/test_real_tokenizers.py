"""Tokenizers of real models: proved, and giving the ids that llama.cpp's own tests expect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from edgekit.errors import InputError
from edgekit.runtimes.llamacpp import LlamaCppEngine
from tests import vocabularies
from tests.converters.test_spm import added


def copied(data: Path, name: str, folder: Path, *files: str) -> Path:
    for file in files:
        shutil.copy(data / "tokenizers" / name / file, folder / file)
    return folder


def expectations(data: Path, name: str) -> list[tuple[str, list[int]]]:
    """llama.cpp's own texts and the ids that it expects for them."""
    stem = data / "tokenizers" / "vocab-gguf" / f"ggml-vocab-{name}.gguf"
    texts = stem.with_name(stem.name + ".inp").read_text().split("\n__ggml_vocab_test__\n")
    lines = stem.with_name(stem.name + ".out").read_text().split("\n")
    assert len(texts) == len(lines) > 40
    return [(text, [int(number) for number in line.split()]) for text, line in zip(texts, lines, strict=True)]


REAL = {
    "llama-2 json": ("llama-2", ("tokenizer.json", "tokenizer_config.json"), "llama-spm", 32000),
    "llama-2 both": ("llama-2", ("tokenizer.json", "tokenizer.model"), "llama-spm", 32000),
    "llama-2 model": ("llama-2", ("tokenizer.model",), "llama-spm", 32000),
    "phi-3": ("phi-3", ("tokenizer.json",), "phi-3", 32064),
    "gpt-2": ("gpt-2", ("tokenizer.json", "tokenizer_config.json"), "gpt-2", 50257),
    "llama-3.2": ("llama-3.2", ("tokenizer.json",), "llama-bpe", 128256),
    "mistral-v1": ("mistral-v1", ("tokenizer.model",), None, 32000),
    "mistral-v7": ("mistral-v7", ("tokenizer.model",), None, 32768),
}


@pytest.mark.parametrize("case", REAL)
def test_real_tokenizers_give_llama_cpps_ids(tmp_path: Path, data: Path, case: str) -> None:
    name, files, reference, size = REAL[case]
    copied(data, name, tmp_path, *files)
    vocabulary = vocabularies.read(tmp_path, size)
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None
    engine = LlamaCppEngine(tmp_path / "vocabulary.gguf", vocab_only=True)
    for text, ids in expectations(data, reference) if reference else ():
        assert engine.tokenize(text, special=False) == ids
    engine.close()


@pytest.mark.parametrize(
    ("name", "files", "reference", "size"),
    [
        ("llama-2", ("tokenizer.model",), "llama-spm", 32000),
        ("gpt-2", ("tokenizer.json", "tokenizer_config.json"), "gpt-2", 50257),
    ],
)
def test_llama_cpps_own_file_of_the_vocabulary_holds_the_same(
    tmp_path: Path, data: Path, name: str, files: tuple[str, ...], reference: str, size: int
) -> None:
    """Where it was made of the same files; Phi-3's is of an older one, and a tokenizer.json has no scores."""
    fields = GGUFReader(data / "tokenizers" / "vocab-gguf" / f"ggml-vocab-{reference}.gguf").fields
    entries = vocabularies.read(copied(data, name, tmp_path, *files), size).entries()
    ours = {entry.key: entry.value for entry in entries}
    theirs = {key: fields[key].contents() for key in fields if key.startswith("tokenizer.")}
    assert {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type"} <= theirs.keys()
    assert {
        key: list(ours[key]) if isinstance(ours[key], list | tuple) else ours[key] for key in theirs
    } == theirs


FALCON = [
    {"type": "Punctuation", "behavior": "Contiguous"},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
    {"type": "Digits", "individual_digits": False},
    {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": False},
]
STARCODER = [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
]


@pytest.mark.parametrize(
    ("name", "steps", "pre"), [("falcon", FALCON, "falcon"), ("starcoder", STARCODER, "smollm")]
)
def test_tokenizers_rebuilt_from_a_vocabulary(
    tmp_path: Path, data: Path, name: str, steps: list[dict[str, Any]], pre: str
) -> None:
    fields = GGUFReader(data / "tokenizers" / "vocab-gguf" / f"ggml-vocab-{name}.gguf").fields
    tokens, kinds, merges = (
        fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type", "merges")
    )
    content = {
        "added_tokens": [
            added(i, t) for i, (t, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == 3
        ],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    vocabulary = vocabularies.read(tmp_path, len(tokens))
    assert vocabulary.pre == pre
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None
    engine = LlamaCppEngine(tmp_path / "vocabulary.gguf", vocab_only=True)
    for text, ids in expectations(data, name):
        assert engine.tokenize(text, special=False) == ids
    engine.close()


def test_tokens_that_swallow_spaces(tmp_path: Path, data: Path) -> None:
    """Phi-3's: refused with a template that puts a line end there, the same with one that doesn't."""
    copied(data, "phi-3", tmp_path, "tokenizer.json", "tokenizer_config.json")
    with pytest.raises(InputError, match="spaces beside a token that swallows them") as caught:
        vocabularies.read(tmp_path, 32064)
    assert caught.value.found == repr("<|assistant|>\n")
    (tmp_path / "chat_template.jinja").write_text(
        "{{ '<|user|>' + messages[0]['content'] + '<|assistant|>' }}"
    )
    vocabulary = vocabularies.read(tmp_path, 32064)
    assert "swallows" in vocabulary.notes[0]
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path).mismatch is None
    assert vocabularies.prove(vocabulary, tmp_path, tmp_path, more=["<|assistant|> a"]).mismatches == 1
