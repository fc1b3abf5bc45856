"""The text model inside a multimodal checkpoint, as if it had been published alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.converters.checkpoint import Checkpoint, read_config
from edgekit.converters.foreseen import Foreseen
from edgekit.converters.places import OTHER_PARTS, text_name
from edgekit.errors import InputError, UnsupportedModelError
from edgekit.files import require_folder
from edgekit.tensors import ALL, Float32, TensorInfo


@dataclass(frozen=True)
class Wrapper:
    """A multimodal class: its text model's, what configs leave out, and the keys that only the text class computes."""

    text: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ignored: Sequence[str] = ()


WRAPPERS = {
    "Gemma3ForConditionalGeneration": Wrapper(
        "Gemma3ForCausalLM",
        {
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072, "vocab_size": 262_208,
            "tie_word_embeddings": True,
        },
        ("final_logit_softcapping",),
    ),
    "Qwen3_5ForConditionalGeneration": Wrapper(
        "Qwen3_5ForCausalLM",
        {
            "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32, "num_attention_heads": 16,
            "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 32768, "vocab_size": 248_320,
            "tie_word_embeddings": False,
        },
    ),
    "Gemma4ForConditionalGeneration": Wrapper(
        "Gemma4ForCausalLM",
        {
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072, "vocab_size": 262_144,
            "tie_word_embeddings": True,
        },
    ),
}  # fmt: skip
"""Class in config.json -> what its text model is; ``defaults`` are those of transformers' configuration classes."""

OUTER = (
    "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "quantization_config",
)  # fmt: skip
"""Keys that the outer config may have for the text model."""


class TextModel:
    """A ``TensorSource`` over a checkpoint: the text model's config, its tensors by its own names, nothing else."""

    def __init__(self, checkpoint: Checkpoint | Foreseen, outer: str) -> None:
        self.folder, self.files, self._checkpoint = checkpoint.folder, checkpoint.files, checkpoint
        self.config: Mapping[str, Any] = _flattened(checkpoint.config, checkpoint.folder, WRAPPERS[outer])
        self._stored: dict[str, str] = {}
        left_out = [name for name in checkpoint.names() if name.startswith(OTHER_PARTS)]
        for stored in checkpoint.names():
            if stored.startswith(OTHER_PARTS):
                continue
            name = text_name(stored)
            if name in self._stored:
                found = f"{self._stored[name]} and {stored}"
                raise InputError("two tensors for one place", path=self.folder, found=found)
            self._stored[name] = stored
        foreseen = checkpoint.notes if isinstance(checkpoint, Foreseen) else ()
        self.notes: Sequence[str] = [*foreseen, *_notes(outer, left_out)]

    def names(self) -> Sequence[str]:
        return tuple(self._stored)

    def info(self, name: str) -> TensorInfo:
        return self._checkpoint.info(self._stored[name])

    @property
    def learn(self) -> Callable[[str, tuple[int, ...]], None] | None:
        """How a family tells a source without weights what shape a tensor has; None where the weights are there."""
        return self._learn if isinstance(self._checkpoint, Foreseen) else None

    def _learn(self, name: str, shape: tuple[int, ...]) -> None:
        assert isinstance(self._checkpoint, Foreseen)
        if not self._checkpoint.named:
            self._stored.setdefault(name, name)
        self._checkpoint.learn(self._stored[name], shape)

    def read(self, name: str, rows: slice = ALL, out: Float32 | None = None) -> Float32:
        return self._checkpoint.read(self._stored[name], rows, out)

    def read_columns(self, name: str, columns: slice = ALL, out: Float32 | None = None) -> Float32:
        return self._checkpoint.read_columns(self._stored[name], columns, out)

    def prefetch(self, name: str, rows: slice = ALL) -> None:
        self._checkpoint.prefetch(self._stored[name], rows)

    def close(self) -> None:
        """Close the checkpoint."""
        self._checkpoint.close()


def open_model(folder: Path) -> Checkpoint | TextModel:
    """Open a checkpoint; of a multimodal one whose text model is converted, only that."""
    opened = _text_of(Checkpoint(folder))
    assert not isinstance(opened, Foreseen)
    return opened


def foresee(folder: Path) -> Foreseen | TextModel:
    """The same for a folder without the weights."""
    opened = _text_of(Foreseen(folder))
    assert not isinstance(opened, Checkpoint)
    return opened


def _text_of(checkpoint: Checkpoint | Foreseen) -> Checkpoint | Foreseen | TextModel:
    try:
        outer = _outer(checkpoint.config)
        return TextModel(checkpoint, outer) if outer else checkpoint
    except BaseException:
        checkpoint.close()
        raise


def config_of(folder: Path) -> Mapping[str, Any]:
    """The config that ``open_model``'s source will have, from config.json alone: there need be no weights yet."""
    config = read_config(require_folder(folder, "the checkpoint"))
    outer = _outer(config)
    return _flattened(config, folder, WRAPPERS[outer]) if outer else config


def _outer(config: Mapping[str, Any]) -> str | None:
    """The multimodal class that a config names."""
    named = config.get("architectures")
    return (
        next((n for n in named if isinstance(n, str) and n in WRAPPERS), None)
        if isinstance(named, list)
        else None
    )


def _flattened(config: Mapping[str, Any], folder: Path, wrapper: Wrapper) -> Mapping[str, Any]:
    path = folder / "config.json"
    inner = config.get("text_config")
    if not isinstance(inner, dict):
        raise InputError("config.json has no text_config", path=path, found=inner, expected="an object")
    for key in wrapper.ignored:
        if inner.get(key) is not None:
            raise UnsupportedModelError(
                f"{key} is what the multimodal class leaves out and llama.cpp computes",
                path=path,
                found=inner[key],
                expected="null",
            )
    shared = {key: config[key] for key in OUTER if config.get(key) is not None}
    own = {key: value for key, value in inner.items() if value is not None}
    # The class ties its head by the outer config, as transformers does.
    tied = {key: shared[key] for key in ("tie_word_embeddings",) if key in shared}
    return {**wrapper.defaults, **shared, **own, **tied, "architectures": [wrapper.text]}


def _notes(outer: str, left_out: Sequence[str]) -> list[str]:
    if not left_out:
        return []
    parts = sorted(
        {next(part for part in OTHER_PARTS if name.startswith(part)).rstrip(".") for name in left_out}
    )
    return [
        f"{outer}: only its text model is converted; {len(left_out)} tensors of {', '.join(parts)} are left out"
    ]
