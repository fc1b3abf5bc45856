"""The oracle is transformers: a tiny random model's F32 file gives its logits and its greedy text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest

from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import chunks, decoder, families, plan, presets, stream
from edgekit.converters.gguf.family import Mapped, Part
from edgekit.converters.gguf.rope import llama3_factors, rope
from edgekit.errors import InputError, UnsupportedModelError
from edgekit.runtimes.engine import Run
from tests.converters.test_gemma_phi_refusals import Shapes
from tests.models import llama_config, llama_weights, save, write_llama, write_sidecars

LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LAYOUTS: dict[str, dict[str, Any]] = {
    "llama-2": {"num_key_value_heads": 4},
    "llama-3": {"rope_theta": 500000.0},
    "llama-3.1": {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE},
    "llama-3.2": {"rope_scaling": LLAMA3_ROPE, "tie_word_embeddings": True, "head_dim": 32},
    "linear-rope": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "with-biases": {"attention_bias": True, "mlp_bias": True},
    "transformers-5": {"rope_parameters": {"rope_theta": 20000.0, "rope_type": "default"}},
    "bfloat16": {"dtype": ml_dtypes.bfloat16},
}


def to_gguf(folder: Path, target: Path, preset: str = "F32") -> Path:
    layout = plan.lay_out(Checkpoint(folder), folder, "test")
    stream.write([plan.plan(layout, presets.preset(preset))], [target], 2)
    return target


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_and_greedy_text_are_those_of_transformers(tmp_path: Path, layout: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

    folder = write_llama(tmp_path / "model", **LAYOUTS[layout])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = [383, 5, 17, 250, 99, 3, 128, 64]
    engine = LlamaCppEngine(
        to_gguf(folder, tmp_path / "model.gguf"), LlamaCppOptions(n_ctx=128, kv_type="f32")
    )
    try:
        tokens, worst = list(prompt), 0.0
        logits = engine.decode([Run(0, prompt, (len(prompt) - 1,))])[0]
        for _ in range(32):
            with torch.no_grad():
                expected = model(torch.tensor([tokens])).logits[0, -1].numpy()
            worst = max(worst, float(np.abs(logits - expected).max()))
            assert int(logits.argmax()) == int(expected.argmax())
            tokens.append(int(logits.argmax()))
            logits = engine.decode([Run(0, tokens[-1:], (0,))])[0]
        assert worst <= 1e-3
    finally:
        engine.close()


def test_rotation_factors_are_those_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.LlamaConfig(
        hidden_size=2048, num_attention_heads=32, head_dim=64, max_position_embeddings=131072,
        rope_parameters={**LLAMA3_ROPE, "factor": 32.0, "original_max_position_embeddings": 8192, "rope_theta": 5e5},
    )  # fmt: skip
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / (5e5 ** (torch.arange(0, 64, 2, dtype=torch.float32) / 64))
    factors = llama3_factors(rope({"rope_parameters": config.rope_parameters}), 64)
    np.testing.assert_allclose(plain.numpy() / factors, frequencies.numpy(), rtol=1e-6)


def test_metadata_is_what_llama_cpps_converter_writes(base: Path, tmp_path: Path) -> None:
    """Recorded from convert_hf_to_gguf.py of llama-cpp-python 0.3.36 on the same checkpoint."""
    recorded = json.loads((Path(__file__).parent / "convert_hf_to_gguf.json").read_text())
    fields = gguf.GGUFReader(to_gguf(base, tmp_path / "base.gguf")).fields
    found = {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}
    assert found.pop("general.name") == "test"
    recorded.pop("general.name")
    long = {key: found.pop(key) for key in list(found) if isinstance(found[key], list)}
    assert found == {key: value for key, value in recorded.items() if key not in long}
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    by_id = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    assert long["tokenizer.ggml.tokens"] == [by_id[i] for i in range(4096)]
    assert long["tokenizer.ggml.merges"] == [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    for key, (length, first) in ((key, recorded[key]) for key in long):
        assert len(long[key]) == length and long[key][:16] == first


def test_interleaving_by_units_is_interleaving_the_whole() -> None:
    rows = np.arange(6 * 8 * 3, dtype=np.float32).reshape(48, 3)
    whole = decoder.interleave(8)(rows)
    parts = np.concatenate([decoder.interleave(8)(rows[i : i + 16]) for i in range(0, 48, 16)])
    assert np.array_equal(whole, parts)
    assert np.array_equal(whole[:8, 0], rows[[0, 4, 1, 5, 2, 6, 3, 7], 0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"architectures": ["MambaForCausalLM"], "model_type": "mamba"},
            UnsupportedModelError,
            "isn't converted",
        ),
        ({"architectures": []}, UnsupportedModelError, "isn't converted"),
        ({"hidden_act": "gelu"}, UnsupportedModelError, "activation"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, UnsupportedModelError, "rope scaling"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2}},
            InputError,
            "original_max_position_embeddings",
        ),
        ({"rope_scaling": "llama3"}, InputError, "rope_scaling is unsound"),
        ({"rope_scaling": {"rope_type": ["llama3"]}}, UnsupportedModelError, "rope scaling"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, InputError, "low_freq_factor is unsound"),
        ({"architectures": 5}, UnsupportedModelError, "isn't converted"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, UnsupportedModelError, "evenly"),
        ({"num_hidden_layers": -1}, InputError, "num_hidden_layers is unsound"),
        ({"hidden_size": "64"}, InputError, "hidden_size is unsound"),
        ({"rms_norm_eps": None}, InputError, "rms_norm_eps is unsound"),
        ({"num_hidden_layers": 3}, InputError, "is missing"),
        ({"intermediate_size": 95}, InputError, "doesn't match config.json"),
        ({"vocab_size": 383}, InputError, "doesn't match"),
        ({"num_hidden_layers": 1}, UnsupportedModelError, "no place for 9 of the checkpoint's tensors"),
    ],
)
def test_configs_that_would_convert_wrong(
    tmp_path: Path, change: dict[str, Any], error: Any, message: str
) -> None:
    folder = write_llama(tmp_path / "model")
    config = llama_config() | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=message):
        plan.lay_out(Checkpoint(folder), folder, "test")


def test_unsupported_architecture_lists_what_is_supported() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        families.find({"architectures": ["FooForCausalLM"]}, Path("config.json"))
    assert "LlamaForCausalLM" in str(caught.value) and "FooForCausalLM" in str(caught.value)


def test_a_head_that_is_stored_is_used_as_transformers_uses_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = llama_config(tie_word_embeddings=True)
    write_sidecars(tmp_path, config)
    weights = llama_weights(config) | {"lm_head.weight": np.full((384, 64), 0.5, np.float32)}
    save(tmp_path / "model.safetensors", weights)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert np.array_equal(model.lm_head.weight.detach().numpy(), weights["lm_head.weight"])
    layout = plan.lay_out(Checkpoint(tmp_path), tmp_path, "test")
    assert "output.weight" in {tensor.name for tensor in layout.tensors}


@pytest.mark.parametrize("tied", [False, None, "yes"])
def test_a_missing_head_is_an_error_unless_the_config_says_tied(tmp_path: Path, tied: Any) -> None:
    folder = write_llama(tmp_path, tie_word_embeddings=True)
    (folder / "config.json").write_text(json.dumps(llama_config() | {"tie_word_embeddings": tied}))
    with pytest.raises(InputError, match="lm_head.weight' is missing"):
        plan.lay_out(Checkpoint(folder), folder, "test")


def test_chunks_cover_every_row_once_in_units() -> None:
    shapes = {"a": (1000, 3000), "b": (7,), "c": (5, 1 << 21), "e": (4, 30, 3000), "n0": (8,), "n1": (8,)}
    tensors = [
        Mapped("a", (1000, 3000), "a", unit=128),
        Mapped("b", (7,), "b"),
        Mapped("c", (5, 1 << 21), "c"),
        Mapped("up", (4, 10, 3000), parts=tuple(Part("e", 30 * e + 10, 30 * e + 20) for e in range(4))),
        Mapped("norms", (2, 8), parts=(Part("n0", 0, 8), Part("n1", 0, 8))),
    ]
    covered: dict[int, list[int]] = {index: [] for index in range(5)}
    for chunk in chunks.chunks(tensors, Shapes({}, shapes)):
        unit = tensors[chunk.index].unit
        assert chunk.at == len(covered[chunk.index]) or chunk.index == 4
        for part in chunk.parts:
            covered[chunk.index] += range(part.start, part.stop)
            assert part.start % unit == 0
    expected = [row for e in range(4) for row in range(30 * e + 10, 30 * e + 20)]
    assert covered == {
        0: list(range(1000)),
        1: list(range(7)),
        2: list(range(5)),
        3: expected,
        4: [*range(8), *range(8)],
    }


def test_two_descriptions_of_one_rotation_are_refused() -> None:
    """transformers takes the older one, others the newer: a file of either would be right for some only."""
    old, new = ({"rope_type": "linear", "factor": factor} for factor in (2.0, 4.0))
    with pytest.raises(UnsupportedModelError, match="described twice"):
        families.find(llama_config(rope_scaling=old, rope_parameters=new), Path("config.json"))
    families.find(llama_config(rope_scaling=old, rope_parameters=dict(old)), Path("config.json"))
