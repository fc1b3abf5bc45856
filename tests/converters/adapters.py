"""Adapters made by PEFT on tiny transformers models, and what PEFT then says the merge is."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.converters.adapter import Adapter
from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.lora import Merged
from tests.models import save

TOLERANCE = 1e-6
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip
Weights = dict[str, NDArray[np.float32]]


def write_base(folder: Path, config: str = "LlamaConfig", **settings: Any) -> Path:
    """A random model, biases and all, saved by transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    made = getattr(transformers, config)(**{**SIZES, **settings})
    model = transformers.AutoModelForCausalLM.from_config(made).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return folder


def load(base: Path, rows: int | None = None) -> Any:
    """transformers' model in float32, its vocabulary resized if ``rows`` is given."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    if rows:
        torch.manual_seed(5)
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def train(base: Path, folder: Path, rows: int | None = None, seed: int = 1, **settings: Any) -> Path:
    """Save an adapter that PEFT made, with every trained weight moved at random."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **settings})
        model = peft.get_peft_model(load(base, rows), config)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
    return folder


def peft_model(base: Path, *adapters: tuple[Path, float], rows: int | None = None) -> Any:
    """The base with adapters on it, all active."""
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(load(base, rows), adapters[0][0], adapter_name="a0")
        for number, (folder, _) in enumerate(adapters[1:], 1):
            model.load_adapter(folder, adapter_name=f"a{number}")
        for number, (_, weight) in enumerate(adapters):
            for module in model.modules():
                if hasattr(module, "set_scale") and f"a{number}" in getattr(module, "scaling", {}):
                    module.set_scale(f"a{number}", weight)
        model.base_model.set_adapter([f"a{number}" for number in range(len(adapters))])
    return model.eval()


def peft_merge(tmp: Path, base: Path, *adapters: tuple[Path, float], rows: int | None = None) -> Weights:
    """What merge_and_unload makes of them, by the names that a checkpoint has."""
    numpy = pytest.importorskip("safetensors.numpy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft_model(base, *adapters, rows=rows).merge_and_unload().save_pretrained(tmp / "theirs")
    tensors: Weights = numpy.load_file(tmp / "theirs" / "model.safetensors")
    return tensors


def merged(base: Path, *adapters: tuple[Path, float]) -> Merged:
    return Merged(Checkpoint(base), [(Adapter(folder), weight) for folder, weight in adapters])


def assert_same(ours: Merged, theirs: Mapping[str, Any], changed: int | None = None) -> None:
    """Every tensor as PEFT's, whole, by runs of rows, and a matrix by its columns."""
    assert set(ours.names()) == set(theirs)
    if changed is not None:
        assert len(ours.changed) == changed
    for name in ours.names():
        expected, info = theirs[name], ours.info(name)
        assert info.shape == expected.shape
        flat = expected.reshape(info.part(info.rows))
        middle = info.rows // 3
        for rows in (slice(0, info.rows), slice(0, middle), slice(middle, info.rows)):
            worst = np.abs(ours.read(name, rows) - flat[rows]).max(initial=0)
            assert worst <= TOLERANCE * np.abs(expected).max(), f"{name}: {worst}"
        if len(info.shape) == 2:
            columns = slice(1, info.shape[1] - 2)
            worst = np.abs(ours.read_columns(name, columns) - expected[:, columns].T).max(initial=0)
            assert worst <= TOLERANCE * np.abs(expected).max(), f"{name} by columns: {worst}"


def assert_same_logits(tmp: Path, ours: Merged, model: Any) -> None:
    """Ours, loaded by transformers as any checkpoint, answers as PEFT does with the adapters unmerged."""
    import torch

    (tmp / "ours").mkdir()
    config = {key: value for key, value in ours.config.items() if key != "torch_dtype"}
    (tmp / "ours" / "config.json").write_text(json.dumps(config))
    tensors = {name: ours.read(name).reshape(ours.info(name).shape) for name in ours.names()}
    save(tmp / "ours" / "model.safetensors", tensors, {"format": "pt"})
    tokens = torch.arange(config["vocab_size"])[None, :60]
    with torch.no_grad():
        found, expected = load(tmp / "ours")(tokens).logits, model(tokens).logits
    assert found.shape == expected.shape
    worst = (found - expected).abs().max().item()
    assert worst <= 1e-5 * expected.abs().max().item(), worst
