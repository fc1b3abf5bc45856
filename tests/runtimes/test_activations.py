"""Sums of squares of what weights are multiplied with, against what transformers multiplies them with."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import InputError, RuntimeUnavailableError
from edgekit.runtimes import _ggmltensor, activations
from edgekit.runtimes.activations import collect, groups, plain_name
from tests.converters.cases import CASES
from tests.converters.oracles import make, to_gguf
from tests.models import llama_config, llama_weights, save, write_llama, write_sidecars

PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
}  # fmt: skip
BOUND = 1e-3


def tokens(count: int, seed: int = 0) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(5, 370, count).tolist()
    return found


def gguf_name(module: str) -> str:
    """``model.layers.3.mlp.up_proj`` as llama.cpp calls its weight."""
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{PARTS[part]}.weight"


def heard(model: Any, sequences: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What every linear layer of a transformers model is given, all rows: GGUF name -> float64 ``(rows, columns)``."""
    torch = pytest.importorskip("torch")
    rows: dict[str, list[Any]] = {}

    def listen(name: str) -> Any:
        return lambda _module, given, _out: rows.setdefault(name, []).append(
            given[0].detach().double().reshape(-1, given[0].shape[-1]).numpy()
        )

    for name, module in model.named_modules():
        if name.startswith("model.layers.") and name.split(".", 3)[-1] in PARTS:
            module.register_forward_hook(listen(gguf_name(name)))
    with torch.no_grad():
        for one in sequences:
            model(torch.tensor([one]))
    return {name: np.concatenate(found) for name, found in rows.items()}


@pytest.mark.parametrize("name", ["llama-3.2", "qwen3"])
def test_sums_are_of_what_transformers_multiplies(name: str, tmp_path: Path) -> None:
    model = make(CASES[name], tmp_path / "base")
    path = to_gguf(tmp_path / "base", tmp_path / "model.gguf")
    sequences = [tokens(100), tokens(64, 1), tokens(7, 2)]
    found, expected = collect(path, sequences), heard(model, sequences)
    assert found.keys() == expected.keys() and list(found) == sorted(found)
    for weight, rows in expected.items():
        squares = found[weight].squares
        assert squares.shape == (1, rows.shape[1]) and found[weight].counts.tolist() == [171]
        np.testing.assert_allclose(squares[0], (rows**2).sum(0), rtol=BOUND, err_msg=weight)


def test_experts_count_what_is_sent_to_them(tmp_path: Path) -> None:
    model = make(CASES["qwen3-moe"], tmp_path / "base")
    path = to_gguf(tmp_path / "base", tmp_path / "model.gguf")
    sequences = [tokens(90), tokens(30, 1)]
    found, rows = collect(path, sequences), heard(model, sequences)
    for layer in range(2):
        block = model.model.layers[layer].mlp
        given, name = rows[f"blk.{layer}.ffn_gate_inp.weight"], f"blk.{layer}.ffn_"
        scores = given @ block.gate.weight.detach().double().numpy().T
        chosen = np.argsort(-scores, axis=1)[:, : model.config.num_experts_per_tok]
        inner = block.experts.gate_up_proj.detach().double().numpy()
        for expert in range(model.config.num_experts):
            seen = given[(chosen == expert).any(1)]
            gate, up = np.split(seen @ inner[expert].T, 2, axis=1)
            between = gate / (1 + np.exp(-gate)) * up
            for part, values in (("gate", seen), ("up", seen), ("down", between)):
                sums = found[f"{name}{part}_exps.weight"]
                assert sums.counts[expert] == len(seen)
                np.testing.assert_allclose(sums.squares[expert], (values**2).sum(0), rtol=BOUND)
    assert found["blk.1.ffn_up_exps.weight"].counts.sum() == 120 * model.config.num_experts_per_tok


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return to_gguf(
        write_llama(folder / "base", max_position_embeddings=4096, tie_word_embeddings=True),
        folder / "model.gguf",
    )


def test_a_long_sequence_is_read_in_parts_and_many_short_ones_together(tiny: Path) -> None:
    long, short = tokens(2500), [tokens(20, seed) for seed in range(70)]
    heard: list[int] = []
    both = collect(tiny, [*short, long], report=heard.append)
    apart = [collect(tiny, [long]), *(collect(tiny, [one]) for one in short[:3]), collect(tiny, short[3:])]
    for name, sums in both.items():
        assert sums.counts.tolist() == [70 * 20 + 2500]
        total = sum(one[name].squares for one in apart)
        np.testing.assert_allclose(sums.squares, total, rtol=BOUND)
    # 64 sequences in a call; 2,500 tokens in two.
    assert heard == [64 * 20, 6 * 20, 2048, 452]


def test_what_makes_the_logits_counts_when_asked(tiny: Path) -> None:
    without, found = collect(tiny, [tokens(40)]), collect(tiny, [tokens(40)], head=True)
    assert set(found) - set(without) == {"token_embd.weight"}
    assert found["token_embd.weight"].counts.tolist() == [40]
    for name, sums in without.items():
        assert np.array_equal(sums.squares, found[name].squares)


def test_activations_that_arent_finite(tmp_path: Path) -> None:
    config = llama_config()
    weights = llama_weights(config)
    weights["model.layers.1.mlp.up_proj.weight"] *= 1e30
    weights["model.layers.1.mlp.gate_proj.weight"] *= 1e30
    write_sidecars(tmp_path / "base", config)
    save(tmp_path / "base" / "model.safetensors", weights)
    path = to_gguf(tmp_path / "base", tmp_path / "model.gguf")
    with pytest.raises(InputError, match=r"aren't finite: what blk\.1\.ffn_down\.weight"):
        collect(path, [tokens(40)])


@pytest.mark.parametrize("at", range(12))
def test_a_library_with_another_field_in_its_tensors_is_refused(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = _ggmltensor.layout()
    assert checked.mul_mat != checked.mul_mat_id
    with monkeypatch.context() as patched:
        fields = [*_ggmltensor.Tensor._fields_]
        fields.insert(at, ("new", ctypes.c_int64))
        moved = type("Tensor", (ctypes.Structure,), {"_fields_": tuple(fields)})
        patched.setattr(_ggmltensor, "Tensor", moved)
        _ggmltensor.layout.cache_clear()
        with pytest.raises(RuntimeUnavailableError, match="laid out otherwise"):
            _ggmltensor.layout()
    _ggmltensor.layout.cache_clear()


def test_names_as_the_scheduler_changes_them() -> None:
    assert plain_name("blk.0.attn_k.weight") == "blk.0.attn_k.weight"
    assert plain_name("CUDA0#blk.0.attn_k.weight#0") == "blk.0.attn_k.weight"


def test_groups_hold_all_sequences_in_their_order() -> None:
    sequences = [[1] * count for count in (5, 5, 5, 30, 2, 2, 2, 2)]
    found = list(groups(sequences, 12, 3))
    assert [[len(one) for one in group] for group in found] == [[5, 5], [5], [30], [2, 2, 2], [2]]
    assert [one for group in found for one in group] == sequences
    assert not list(groups([], 12, 3))


def test_nothing_escapes_into_c(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("in the callback")

    monkeypatch.setattr(activations, "_take_dense", fail)
    with pytest.raises(ZeroDivisionError, match="in the callback"):
        collect(tiny, [tokens(40)])
