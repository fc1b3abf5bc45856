"""The tokenizer of a model whose vocabulary an adapter changed: the adapter's files, with the base's settings."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgekit.files import inside, require_file

TOKENIZER = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja",
)  # fmt: skip
SETTINGS = ("config.json", "generation_config.json")


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer's files that a folder has."""
    return [inside(folder, name) for name in TOKENIZER if (folder / name).exists()]


def overlay(base: Path, adapter: Path, into: Path) -> Path:
    """Copy the adapter's tokenizer and the base's settings into one folder; returns it."""
    settings = [inside(base, name) for name in SETTINGS if (base / name).exists()]
    for path in [*tokenizer_files(adapter), *settings]:
        shutil.copyfile(require_file(path, path.name), into / path.name)
    return into
