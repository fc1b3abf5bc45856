"""Adapters on embeddings, heads and single tokens, resized vocabularies, and what PEFT means by tying them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import AdapterError
from tests.converters.adapters import (
    assert_same,
    assert_same_logits,
    merged,
    peft_merge,
    peft_model,
    train,
    write_base,
)
from tests.converters.test_dora import rewrite

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BOTH = ["embed_tokens", "lm_head"]


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("untied"))


def reconfigure(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


LORA_ON_EMBEDDINGS: list[dict[str, Any]] = [
    {"target_modules": ["embed_tokens"]},
    {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    {"target_modules": ["q_proj", "lm_head"], "ensure_weight_tying": True},
    {"target_modules": ["q_proj"], "trainable_token_indices": [63, 21, 0, 5]},
    {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [1, 5]}},
    {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [2]}},
    {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [2]}},
    {"target_modules": ["q_proj"], "modules_to_save": BOTH},
    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "ensure_weight_tying": True},
]


@pytest.mark.parametrize("settings", LORA_ON_EMBEDDINGS, ids=str)
def test_untied(untied: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    lora = train(untied, tmp_path / "lora", **settings)
    ours = merged(untied, (lora, 1.0))
    assert not ours.untied
    assert_same(ours, peft_merge(tmp_path, untied, (lora, 1.0)))


@pytest.mark.parametrize(
    ("settings", "unties"),
    list(zip(LORA_ON_EMBEDDINGS, [True, True, False, False, False, True, True, True, False], strict=True)),
    ids=str,
)
def test_tied(tied: Path, tmp_path: Path, settings: dict[str, Any], unties: bool) -> None:
    """The oracle is PEFT's forward: its merge writes two changes into storage that both share."""
    lora = train(tied, tmp_path / "lora", **settings)
    ours = merged(tied, (lora, 1.0))
    assert ours.untied == unties == (HEAD in ours.names())
    assert ours.config["tie_word_embeddings"] is not unties
    assert_same_logits(tmp_path, ours, peft_model(tied, (lora, 1.0)))


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
        {"target_modules": ["lm_head"], "use_dora": True, "ensure_weight_tying": True},
        {"target_modules": ["lm_head"], "alpha_pattern": {"lm_head": 2}, "ensure_weight_tying": True},
        {"target_modules": ".*(q_proj|lm_head)", "ensure_weight_tying": True},
    ],
    ids=str,
)
def test_tied_with_lengths_strengths_and_patterns(
    tied: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    lora = train(tied, tmp_path / "lora", **settings)
    assert_same_logits(tmp_path, merged(tied, (lora, 1.0)), peft_model(tied, (lora, 1.0)))


@pytest.mark.parametrize("rows", [None, 70])
def test_embeddings_by_another_name(tmp_path: Path, rows: int | None) -> None:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "tie_word_embeddings": True}
    base = write_base(tmp_path / "base", "GPT2Config", **sizes)
    tokens = None if rows else {"wte": [3, 4]}
    lora = train(
        base,
        tmp_path / "lora",
        rows=rows,
        target_modules=["c_attn"],
        fan_in_fan_out=True,
        trainable_token_indices=tokens,
    )
    ours = merged(base, (lora, 1.0))
    assert not ours.untied
    assert_same_logits(tmp_path, ours, peft_model(base, (lora, 1.0), rows=rows))


def test_weighted_lora_on_embeddings(untied: Path, tmp_path: Path) -> None:
    one = train(untied, tmp_path / "one", target_modules=["embed_tokens", "q_proj"])
    two = train(untied, tmp_path / "two", target_modules=["embed_tokens", "lm_head"], seed=3)
    pair = ((one, 0.6), (two, -0.5))
    assert_same(merged(untied, *pair), peft_merge(tmp_path, untied, *pair), changed=4)


RESIZED: list[dict[str, Any]] = [
    {"target_modules": ["q_proj"]},
    {"target_modules": ["q_proj"], "trainable_token_indices": [65, 66, 3]},
    {"target_modules": ["q_proj"], "modules_to_save": BOTH},
    {"target_modules": ["q_proj", *BOTH]},
]


@pytest.mark.parametrize("rows", [70, 60])
@pytest.mark.parametrize("settings", RESIZED, ids=str)
@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_resized_vocabulary(
    request: pytest.FixtureRequest, tmp_path: Path, settings: dict[str, Any], rows: int, kind: str
) -> None:
    base: Path = request.getfixturevalue(kind)
    if rows == 60 and "trainable_token_indices" in settings:
        settings = settings | {"trainable_token_indices": [59, 3]}
    lora = train(base, tmp_path / "lora", rows=rows, **settings)
    ours = merged(base, (lora, 1.0))
    assert ours.config["vocab_size"] == rows == ours.info(EMBEDDING).rows
    assert ours.resized_by == lora
    assert_same_logits(tmp_path, ours, peft_model(base, (lora, 1.0), rows=rows))
    if kind == "untied":
        assert_same(ours, peft_merge(tmp_path, base, (lora, 1.0), rows=rows))


def test_a_resized_embedding_that_alone_was_saved_is_its_tied_heads_too(tied: Path, tmp_path: Path) -> None:
    lora = train(tied, tmp_path / "lora", rows=70, target_modules=["q_proj", "embed_tokens"])
    ours = merged(tied, (lora, 1.0))
    assert ours.untied and ours.info(HEAD).rows == 70
    assert_same_logits(tmp_path, ours, peft_model(tied, (lora, 1.0), rows=70))


def test_a_vocabulary_resized_on_one_side_only_is_refused(untied: Path, tied: Path, tmp_path: Path) -> None:
    lora = train(untied, tmp_path / "lora", rows=70, target_modules=["q_proj"])
    rewrite(lora, {f"base_model.model.{HEAD}": None})
    with pytest.raises(AdapterError, match="the embedding would have 70 rows and the head 64"):
        merged(untied, (lora, 1.0))
    lora = train(tied, tmp_path / "tied", rows=70, target_modules=["q_proj"])
    rewrite(lora, {f"base_model.model.{HEAD}": np.ones((70, 32), np.float32)})
    with pytest.raises(AdapterError, match="tied, but saved with different values"):
        merged(tied, (lora, 1.0))
    narrow = train(untied, tmp_path / "narrow", rows=70, target_modules=["q_proj"])
    rewrite(narrow, {f"base_model.model.{EMBEDDING}": np.ones((70, 30), np.float32)})
    with pytest.raises(AdapterError, match=r"saved as \(70, 30\), the base has \(64, 32\)"):
        merged(untied, (narrow, 1.0))


def test_adapters_of_different_vocabularies_are_refused(untied: Path, tmp_path: Path) -> None:
    more = train(untied, tmp_path / "more", rows=70, target_modules=["q_proj"])
    embedding = train(untied, tmp_path / "embedding", target_modules=["embed_tokens"])
    rewrite(embedding, {"base_model.model.model.embed_tokens.base_layer.weight": None})
    for pair in ((more, embedding), (embedding, more)):
        with pytest.raises(AdapterError, match="another adapter gives it 70 rows"):
            merged(untied, *((folder, 1.0) for folder in pair))


def test_adapters_of_one_resized_vocabulary(untied: Path, tmp_path: Path) -> None:
    one = train(untied, tmp_path / "one", rows=70, target_modules=["q_proj"])
    two = train(untied, tmp_path / "two", rows=70, target_modules=["v_proj", *BOTH], seed=2)
    pair = ((one, 1.0), (two, 1.0))
    assert_same(merged(untied, *pair), peft_merge(tmp_path, untied, *pair, rows=70), changed=6)


def test_tokens_that_do_not_fit_are_refused(untied: Path, tied: Path, tmp_path: Path) -> None:
    place = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    lora = train(untied, tmp_path / "lora", target_modules=["q_proj"], trainable_token_indices=[1, 5])
    with pytest.raises(AdapterError, match="no weight but 1"):
        merged(untied, (lora, 0.5))
    with pytest.raises(AdapterError, match="trained the same tokens"):
        merged(untied, (lora, 1.0), (lora, 1.0))
    factors = train(untied, tmp_path / "factors", target_modules=["embed_tokens"])
    with pytest.raises(AdapterError, match="one adapter replaces its rows"):
        merged(untied, (lora, 1.0), (factors, 1.0))
    reconfigure(lora, trainable_token_indices=[1, 64])
    with pytest.raises(AdapterError, match="token 64 is past 64 rows"):
        merged(untied, (lora, 1.0))
    reconfigure(lora, trainable_token_indices=[1, 5, 6])
    with pytest.raises(AdapterError, match="3 tokens were trained"):
        merged(untied, (lora, 1.0))
    reconfigure(lora, trainable_token_indices=None)
    with pytest.raises(AdapterError, match="nothing consumes tensor .*trainable_tokens_delta"):
        merged(untied, (lora, 1.0))
    both = {"embed_tokens": [1, 5], "lm_head": [2, 3]}
    reconfigure(lora, trainable_token_indices=both)
    with pytest.raises(AdapterError, match="lm_head: tokens of it were trained"):
        merged(untied, (lora, 1.0))
    rewrite(lora, {place: None})
    reconfigure(lora, trainable_token_indices=[1, 5])
    with pytest.raises(AdapterError, match="has no weights for them"):
        merged(untied, (lora, 1.0))
    whole = train(
        tied,
        tmp_path / "whole",
        target_modules=["q_proj"],
        trainable_token_indices=[3],
        modules_to_save=["lm_head"],
    )
    with pytest.raises(AdapterError, match="single tokens of it were trained and more"):
        merged(tied, (whole, 1.0))
    apart = train(tied, tmp_path / "apart", target_modules=["q_proj"], trainable_token_indices=both)
    reconfigure(apart, ensure_weight_tying=True)
    with pytest.raises(AdapterError, match="trained on different tokens"):
        merged(tied, (apart, 1.0))


def test_other_tokens_of_two_adapters(untied: Path, tmp_path: Path) -> None:
    """PEFT merges these one after the other, not at once."""
    one = train(untied, tmp_path / "one", target_modules=["q_proj"], trainable_token_indices=[1, 5])
    two = train(untied, tmp_path / "two", target_modules=["v_proj"], trainable_token_indices=[7], seed=2)
    peft_merge(tmp_path, untied, (one, 1.0))
    theirs = peft_merge(tmp_path / "then", tmp_path / "theirs", (two, 1.0))
    assert_same(merged(untied, (one, 1.0), (two, 1.0)), theirs, changed=5)


def test_tying_that_the_file_contradicts_is_refused(tied: Path, tmp_path: Path) -> None:
    prefix = "base_model.model.lm_head"
    lora = train(tied, tmp_path / "lora", target_modules=["lm_head"], ensure_weight_tying=True)
    rewrite(lora, {f"{prefix}.lora_A.weight": np.ones((4, 32), np.float32)})
    with pytest.raises(AdapterError, match="the factors of the tied two differ"):
        merged(tied, (lora, 1.0))
    rewrite(lora, {f"{prefix}.lora_A.weight": None, f"{prefix}.lora_B.weight": None})
    with pytest.raises(AdapterError, match="only one of the tied two has factors"):
        merged(tied, (lora, 1.0))
    whole = train(
        tied, tmp_path / "whole", target_modules=["q_proj"], modules_to_save=BOTH, ensure_weight_tying=True
    )
    rewrite(whole, {f"{prefix}.weight": np.ones((64, 32), np.float32)})
    with pytest.raises(AdapterError, match="tied, but saved with different values"):
        merged(tied, (whole, 1.0))
    rewrite(whole, {f"{prefix}.weight": None})
    with pytest.raises(AdapterError, match="only one of the tied two was saved"):
        merged(tied, (whole, 1.0))


def test_tied_factors_on_an_untied_base_are_refused(tied: Path, untied: Path, tmp_path: Path) -> None:
    """PEFT would leave the head's out, with a warning."""
    lora = train(tied, tmp_path / "lora", target_modules=["lm_head"], ensure_weight_tying=True)
    with pytest.raises(AdapterError, match="the base's head has weights of its own"):
        merged(untied, (lora, 1.0))


def test_factors_of_another_kind_of_layer_are_refused(untied: Path, tmp_path: Path) -> None:
    lora = train(untied, tmp_path / "lora", target_modules=["q_proj"])
    reconfigure(lora, target_modules=["q_proj", "embed_tokens"])
    prefix = "base_model.model.model.embed_tokens"
    linear = {f"{prefix}.lora_A.weight": (4, 32), f"{prefix}.lora_B.weight": (64, 4)}
    rewrite(lora, {name: np.ones(shape, np.float32) for name, shape in linear.items()})
    with pytest.raises(AdapterError, match="not of the layer that the base has there"):
        merged(untied, (lora, 1.0))
    with pytest.raises(AdapterError, match="model.embed_tokens: is targeted, but"):
        rewrite(lora, dict.fromkeys(linear))
        merged(untied, (lora, 1.0))
