"""The tokenizer of a model whose vocabulary an adapter changed: the adapter's files, with the base's settings."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgekit.files import inside, require_file

TOKENIZER = (
    "tokenizer.json", "tokenizer.model", "tekken.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja",
)  # fmt: skip
SETTINGS = ("config.json", "generation_config.json")


def files_read(adapter: Path, weights: Path, tokenizer: Path | None) -> list[Path]:
    """What a build reads of an adapter: its tokenizer too where ``tokenizer`` says that it is the adapter's."""
    own = [adapter / "adapter_config.json", weights]
    return own + (_tokenizer_files(adapter) if adapter == tokenizer else [])


def _tokenizer_files(folder: Path) -> list[Path]:
    return [inside(folder, name) for name in TOKENIZER if (folder / name).exists()]


def overlay(base: Path, adapter: Path, into: Path) -> Path:
    """Copy the adapter's tokenizer and the base's settings into one folder; returns it."""
    settings = [inside(base, name) for name in SETTINGS if (base / name).exists()]
    for path in [*_tokenizer_files(adapter), *settings]:
        shutil.copyfile(require_file(path, path.name), into / path.name)
    return into
