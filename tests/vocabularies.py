"""Vocabularies proved without a model around them: a GGUF of nothing but tokenizer keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFWriter

from edgekit import worker
from edgekit.converters.gguf import probes, tokenizers
from edgekit.converters.gguf.vocabulary import Vocabulary


def write(vocabulary: Vocabulary, path: Path, name: str = "test") -> Path:
    """A GGUF that llama.cpp can load with ``vocab_only``."""
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    for entry in vocabulary.entries():
        writer.add_key_value(entry.key, entry.value, entry.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def prove(
    vocabulary: Vocabulary, folder: Path, out: Path, *, more: Sequence[str] = (), name: str = "test"
) -> worker.Proved:
    """The build's own proof, on the vocabulary's probes and ``more`` texts."""
    texts = [*probes.of(vocabulary), *more]
    definition = vocabulary.reference() if vocabulary.reference else ""
    artifact = write(vocabulary, out / "vocabulary.gguf", name)
    answer = worker.run(worker.Prove(str(artifact), str(folder / vocabulary.file), texts, definition))
    assert isinstance(answer, worker.Proved)
    return answer


def read(folder: Path, size: int, **config: Any) -> Vocabulary:
    """What the converter makes of the folder."""
    return tokenizers.read(folder, config, size)
