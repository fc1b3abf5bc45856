"""Labels by exact probability, against a plain chain over the engine's logits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.model import Model, load
from edgekit.runtimes.engine import Run
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

LABELS = ["card_arrival", "card", "card_arrival_late", "lost", "refund not here", "é"]
TEXT, PROMPT = "my card never arrived", "Extract banking: intent\n{text}"


@pytest.fixture(scope="module")
def model(bundles: Path) -> Iterator[Model]:
    with load(bundles / "restaurant-f32", threads=1) as model:
        yield model


def plainly(bundles: Path, model: Model, said: str) -> float:
    """Log-probability of an answer and then its end, token by token, in an engine of its own."""
    engine = LlamaCppEngine(bundles / "restaurant-f32" / "model.gguf", LlamaCppOptions(n_ctx=512, threads=1))
    prompt = model.tokens(model.messages(PROMPT.replace("{text}", TEXT)))
    total, tokens = 0.0, prompt
    for token in [*engine.tokenize(said, special=False), None]:
        logits = engine.decode([Run(0, tokens, (len(tokens) - 1,))])[0].astype(np.float64)
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        total += float(np.log(chances[sorted(engine.eos_ids)].sum() if token is None else chances[token]))
        tokens = [token] if token is not None else []
    engine.close()
    return total


@pytest.mark.parametrize("answer", ["{label}", '{"intent":"{label}"}'])
def test_exact_probabilities(bundles: Path, model: Model, answer: str) -> None:
    found = model.classify(TEXT, LABELS, PROMPT, answer=answer)
    scores = np.array([plainly(bundles, model, answer.replace("{label}", label)) for label in LABELS])
    chances = np.exp(scores - scores.max())
    expected = chances / chances.sum()
    assert list(found.probabilities) == LABELS
    np.testing.assert_allclose(list(found.probabilities.values()), expected, rtol=0.05, atol=1e-6)
    assert found.mass == pytest.approx(float(np.exp(scores).sum()), rel=0.05)
    assert found.label == LABELS[int(expected.argmax())]


def test_many_labels_read_the_prompt_once() -> None:
    engine = FakeEngine("label 7", n_seq_max=8)
    labels = [f"label {index}" for index in range(77)]
    with Model(engine, prompt="{text}") as model:
        found = model.classify("x" * 500, labels)
    assert found.label == "label 7" and found.probabilities["label 7"] > 0.99 and found.mass > 0.99
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert engine.decoded < 500 * 2 + 77 * 12


@pytest.mark.parametrize("labels", [[], "text", ["a", "a"], ["", "a"], [1]])
def test_labels_that_are_none(labels: list[str]) -> None:
    with Model(FakeEngine("x"), prompt="{text}") as model:
        with pytest.raises(InputError, match="label"):
            model.classify("x", labels)
        with pytest.raises(InputError, match="no place for the label"):
            model.classify("x", ["a"], answer="label")


@pytest.mark.parametrize("n_ctx", [700, 4096])
@pytest.mark.parametrize("length", [60, 600])
def test_labels_that_are_longer_than_what_is_left_for_answers(n_ctx: int, length: int) -> None:
    """A score is of all of its tokens, in a context that just holds them too."""
    labels = ["y" * length, "n" * length]
    prompt = "x" * (n_ctx - length - 50 if n_ctx == 700 else 80)
    with Model(FakeEngine("n" * length, n_ctx=n_ctx, n_seq_max=2), prompt="{text}") as model:
        found = model.classify(prompt, labels)
    assert found.label == labels[1] and found.probabilities[labels[1]] > 0.99 and 0.9 < found.mass <= 1
