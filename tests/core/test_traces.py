"""Traces: the same answer as extract gives, with the probabilities of an account of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgekit import chat
from edgekit.bundle import Bundle
from edgekit.confidence import Trace, evidence
from edgekit.extraction import Extractor
from edgekit.model import Model, load
from edgekit.runtimes.constraint import Vocabulary, compile_schema
from edgekit.runtimes.engine import Run
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions
from edgekit.traces import tracing

TEXTS = [
    "A table for two at 8 pm, Ada Lovelace",
    "[asked: time] 2230",
    'Say "hi\\" to Bob\n<|eot_id|>',
    "é 😀",
]


@pytest.fixture(scope="module")
def engine(bundles: Path) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(bundles / "restaurant-q8_0" / "model.gguf", LlamaCppOptions(n_ctx=512, threads=1))
    yield engine
    engine.close()


def test_the_answers_are_those_of_extract(bundles: Path) -> None:
    folder = bundles / "restaurant-q8_0"
    with tracing(Bundle.open(folder), threads=1) as extract:
        found = list(extract(TEXTS))
    assert [text for text, _, _ in found] == TEXTS
    with load(folder, threads=1) as model:
        for text, trace, data in found:
            assert trace.answer.decode() == model.extract(text).text
            assert data == json.loads(trace.answer)
            assert {leaf.path for leaf in evidence(trace, text).leaves} == set(data)


def test_probabilities_are_those_among_the_allowed_tokens(engine: LlamaCppEngine, bundles: Path) -> None:
    """Each token again, alone: a softmax over the tokens that a matcher of its own lets through there."""
    bundle = Bundle.open(bundles / "restaurant-q8_0")
    with tracing(bundle, threads=1) as extract:
        _, trace, _ = next(iter(extract(TEXTS[:1])))
    prompt = (bundle.manifest.prompt or "").replace("{text}", TEXTS[0])
    ids = chat.tokenize(engine, engine.chat_template or "", [{"role": "user", "content": prompt}])
    matcher = Vocabulary(engine).matcher(compile_schema(bundle.manifest.output_schema))
    by_bytes = {engine.token_bytes(token): token for token in range(engine.n_vocab)}
    engine.drop(0)
    logits = engine.decode([Run(0, ids, (len(ids) - 1,))])[0]
    sampled = 0
    for piece, logprob, runner_up in zip(trace.pieces, trace.logprobs, trace.runner_up, strict=True):
        token = by_bytes[piece]
        if runner_up > -math.inf:
            masked = matcher.mask(logits).astype(np.float64)
            chances = np.exp(masked - masked.max()) / np.exp(masked - masked.max()).sum()
            assert token == chances.argmax()
            # one token at a time rounds otherwise than a run of them
            assert math.exp(logprob) == pytest.approx(chances[token], abs=0.02)
            assert math.exp(runner_up) == pytest.approx(np.sort(chances)[-2], abs=0.02)
            sampled += 1
        else:
            assert logprob == 0
        matcher.consume([token])
        logits = engine.decode([Run(0, [token], (0,))])[0]
    assert sampled >= 10 and matcher.complete


def test_answers_that_are_cut_off_have_no_data() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    engine = FakeEngine(lambda prompt: '{"a":"' + "x" * (5 if "short" in prompt else 900) + '"}', n_ctx=300)
    with Model(engine, prompt="{text}", schema=schema) as model:
        extractor = Extractor(model, None, None, None, {})
        found = {text: (trace, data) for text, trace, data in extractor.traces(["short", "long", "z" * 400])}
    assert found["short"][1] == {"a": "xxxxx"}
    assert found["long"][1] is None and found["long"][0].answer.startswith(b'{"a":"xxx')
    assert found["z" * 400] == (Trace([], [], []), None)
