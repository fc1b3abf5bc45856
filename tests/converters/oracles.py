"""What families are held against: tiny random models made with transformers, LoRAs made with PEFT."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.converters.adapter import Adapter
from edgekit.converters.gguf import plan, presets, stream
from edgekit.converters.lora import Merged
from edgekit.converters.text_model import open_model
from edgekit.runtimes.engine import Run
from tests.benchmarks.make_model import tokenizer

PROMPT, STEPS = 40, 24
"""Tokens read at once and tokens generated after them: 64 together, past every tiny window and rope boundary."""


@dataclass(frozen=True)
class Case:
    """A tiny model of one family: transformers' configuration class and what to set in it."""

    config: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    lora: Sequence[str] | str = "all-linear"
    """PEFT's target_modules; empty for a family whose layers no LoRA is merged into."""
    half_gelu: bool = False
    """Whether llama.cpp looks the activation up in ggml's table of half-precision GELUs, which is off by 5e-4 at most.

    Feed-forwards are made a tenth as loud, so that the bound holds where all else is right, and only there.
    """
    wrapper: str = ""
    """transformers' configuration class of a multimodal model around it; its model is named likewise."""


SIZES = {
    "vocab_size": 384, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 379, "eos_token_id": 380,
    "pad_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip
"""What a case has unless it says otherwise."""


SEEING: dict[str, dict[str, Any]] = {
    "Gemma3Config": {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    },
    "Qwen3_5Config": {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 64, "patch_size": 4,
        "num_position_embeddings": 16,
    },
    "Gemma4Config": {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8,
        "num_key_value_heads": 2,
    },
}  # fmt: skip
"""The smallest image towers that the multimodal models take."""


def make(case: Case, folder: Path, seed: int = 0, dtype: str = "float32") -> Any:
    """Save a random model of the case, with a tokenizer; returns transformers' model."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(seed)
    config = getattr(transformers, case.config)(**{**SIZES, **case.settings})
    kind = transformers.AutoModelForCausalLM
    if case.wrapper:
        kind = getattr(transformers, case.wrapper.replace("Config", "ForConditionalGeneration"))
        vision = SEEING[case.wrapper]
        config = getattr(transformers, case.wrapper)(
            text_config=config, vision_config=vision, tie_word_embeddings=config.tie_word_embeddings
        )
    model = (
        kind._from_config(config, attn_implementation="eager")
        if case.wrapper
        else kind.from_config(config, attn_implementation="eager")
    )
    model = model.float().eval()
    _randomize(torch, model)
    if case.half_gelu:
        _quieten(torch, model)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(config.get_text_config().vocab_size)))
    words = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    return model


def _randomize(torch: Any, model: Any) -> None:
    """Weights that make every part of the model matter: transformers' own start leaves logits near zero."""
    # Gemma's embeddings are scaled by the model, and are its head too.
    loud = 1 if hasattr(model.get_input_embeddings(), "embed_scale") else 4
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5 * (loud if "embed" in name else 1))
            else:
                parameter.add_(0.1 * noise)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.uniform_(0.7, 1.3)


def _quieten(torch: Any, model: Any) -> None:
    """Make feed-forwards a tenth as loud, by the norm after them where a model has one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "post_feedforward_layernorm" in name or "post_per_layer_input_norm" in name:
                parameter.sub_(0.9)  # Gemma 2 and 3 add 1, others start at it
            elif "mlp.down_proj" in name or "mlp.c_proj" in name:
                parameter.mul_(0.1)
            elif "q_norm" in name and "gemma4" in model.config.model_type:
                parameter.mul_(0.25)  # what others divide by the root of a head's size


def add_lora(case: Case, model: Any, folder: Path, seed: int = 1) -> Any:
    """Save a random LoRA on the model's linear layers; returns PEFT's merge of it."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    torch.manual_seed(seed)
    targets = case.lora if isinstance(case.lora, str) else list(case.lora)
    settings = {"task_type": "CAUSAL_LM", "fan_in_fan_out": model.config.model_type == "gpt2"}
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, **settings)
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    wrapped.save_pretrained(folder)
    return wrapped.merge_and_unload().eval()


def to_gguf(folder: Path, target: Path, preset: str = "F32", adapter: Path | None = None) -> Path:
    """Convert a checkpoint, with an adapter merged where one is given."""
    base = open_model(folder)
    merged = Merged(base, [(Adapter(adapter), 1.0)] if adapter else [])
    stream.write([plan.plan(plan.lay_out(merged, folder, "test"), presets.preset(preset))], [target], 2)
    return target


def assert_same_answers(gguf: Path, model: Any, vocab: int, bound: float = 1e-3) -> float:
    """Logits of 64 positions within ``bound`` of transformers', and the same greedy text; the largest difference."""
    import torch

    from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

    tokens = np.random.default_rng(2).integers(5, vocab - 10, PROMPT).tolist()
    engine = LlamaCppEngine(gguf, LlamaCppOptions(n_ctx=128, n_batch=128, n_outputs=64, kv_type="f32"))
    try:
        found = [row.copy() for row in engine.decode([Run(0, tokens, tuple(range(PROMPT)))])]
        for _ in range(STEPS):
            tokens.append(int(found[-1].argmax()))
            found.append(engine.decode([Run(0, tokens[-1:], (0,))])[0].copy())
    finally:
        engine.close()
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].float().numpy()
    ours = np.stack(found)[:, : expected.shape[1]]
    assert expected.std() > 0.3, "logits this small would agree by chance"
    worst = np.abs(ours - expected).max(1)
    assert worst.max() <= bound, f"logits (deviation {expected.std():.2f}) differ by {worst}"
    assert (ours.argmax(1) == expected.argmax(1)).all()
    return float(worst.max())
