"""The kinds of tokenizer that are converted, one file each, found by the files that a checkpoint has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgekit.converters.gguf import bpe
from edgekit.converters.gguf.vocabulary import Vocabulary
from edgekit.errors import InputError

Read = Callable[[Path, Mapping[str, Any], int], Vocabulary]

KINDS: dict[str, Read] = {bpe.FILE: bpe.read}
"""File name -> the kind that reads it; a kind refuses content that is another's."""


def read(folder: Path, config: Mapping[str, Any], size: int) -> Vocabulary:
    """The vocabulary of a checkpoint whose embedding has ``size`` rows."""
    for name, kind in KINDS.items():
        if (folder / name).exists():
            return kind(folder, config, size)
    raise InputError(
        f"the checkpoint has no {' or '.join(KINDS)}",
        path=folder,
        next_step="save one with AutoTokenizer.from_pretrained(...).save_pretrained(...)",
    )
