"""The kinds of tokenizer that are converted, one file each, found by the files that a checkpoint has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.converters.gguf import bpe, gemma4_vocabulary, ranks, sentencepiece, spm, tokenizer_json, unigram
from edgekit.converters.gguf.vocabulary import Surroundings, Vocabulary
from edgekit.errors import InputError

Read = Callable[[Surroundings, int], Vocabulary]


def _from_json(files: Surroundings, size: int) -> Vocabulary:
    tokenizer = tokenizer_json.read(files.folder)
    if tokenizer.model.type == "Unigram":
        return unigram.convert(tokenizer, files, size)
    if tokenizer.model.type == "BPE" and tokenizer.model.byte_fallback:
        if gemma4_vocabulary.is_gemma4(files.config):
            return gemma4_vocabulary.convert(tokenizer, files, size)
        return spm.convert(tokenizer, files, size)
    return bpe.convert(tokenizer, files, size)


def _from_model(files: Surroundings, size: int) -> Vocabulary:
    """tokenizer.model: SentencePiece's, or lines of tiktoken's ranks under that name, as Meta published Llama 3's."""
    if ranks.is_tiktoken(files.folder / sentencepiece.FILE):
        return ranks.from_tiktoken(files, sentencepiece.FILE, size)
    model = sentencepiece.read(files.folder)
    if model.kind == "unigram":
        return unigram.from_model(model, files, size)
    return spm.from_model(model, files, size)


KINDS: dict[str, Read] = {
    tokenizer_json.FILE: _from_json,
    ranks.TEKKEN: ranks.from_tekken,
    sentencepiece.FILE: _from_model,
}
"""File name -> what reads it, the one that transformers would take first."""


def read(folder: Path, config: Mapping[str, Any], size: int) -> Vocabulary:
    """The vocabulary of a checkpoint whose embedding has ``size`` rows."""
    files = Surroundings.read(folder, config)
    return replace(_read(folder, files, size), named_templates=files.named_templates())


def present(folder: Path) -> bool:
    """Whether a folder has any tokenizer that is read."""
    return any((folder / name).exists() for name in KINDS) or any(folder.glob("*.tiktoken"))


def _read(folder: Path, files: Surroundings, size: int) -> Vocabulary:
    for name, kind in KINDS.items():
        if (folder / name).exists():
            return kind(files, size)
    for path in sorted(folder.glob("*.tiktoken")):
        return ranks.from_tiktoken(files, path.name, size)
    raise InputError(
        f"the checkpoint has no {', '.join(KINDS)} or *.tiktoken",
        path=folder,
        next_step="save one with AutoTokenizer.from_pretrained(...).save_pretrained(...)",
    )
