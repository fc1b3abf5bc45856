"""The batch's masks and choices against the plain way, a row at a time in double precision."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.runtimes.constraint import Matcher, Vocabulary, compile_schema
from edgekit.runtimes.engine import Logits
from edgekit.runtimes.masks import MaskBatch
from tests.benchmarks.masks import Words

STRING = {"type": "string"}
SCHEMAS = (
    (STRING, b'"ab'),
    (STRING, b""),
    ({"type": "integer"}, b"4"),
    ({"enum": ["yes", "no"]}, b'"'),
    ({"type": "string", "pattern": "^[a-m]*$"}, b'"'),
    ({"type": ["string", "null"]}, b""),
)


@pytest.fixture(scope="module", params=[300, 4096, 70_001])
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    return Vocabulary(Words(request.param))  # type: ignore[arg-type]


def matchers(vocabulary: Vocabulary) -> list[Matcher]:
    made = []
    for schema, begun in SCHEMAS:
        matcher = vocabulary.matcher(compile_schema(schema))
        matcher.consume(list(begun))
        made.append(matcher)
    return made


def plainly(matcher: Matcher | None, logits: Logits) -> tuple[int, float]:
    masked = (logits if matcher is None else matcher.mask(logits)).astype(np.float64)
    best = int(masked.argmax())
    return best, -float(np.log(np.exp(masked - masked[best]).sum()))


@pytest.mark.parametrize("seed", range(6))
def test_as_row_by_row(vocabulary: Vocabulary, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows: list[Matcher | None] = [*matchers(vocabulary), None]
    rows = [rows[at] for at in random.permutation(len(rows))]
    batch = MaskBatch(len(rows) + 2, vocabulary)
    logits = random.normal(0, 4, (len(rows), vocabulary.size)).astype(np.float32)
    if seed % 2:
        logits = np.round(logits)  # many equals
    logits[:, :3] = -np.inf
    before = logits.copy()
    for count in (len(rows), 1, 3):
        batch.compute(rows[:count])
        best = batch.best(logits[:count])
        expected = [plainly(matcher, row) for matcher, row in zip(rows[:count], logits, strict=False)]
        assert best.ids.tolist() == [token for token, _ in expected]
        np.testing.assert_allclose(best.logprobs, [logprob for _, logprob in expected], atol=1e-6)
        for at, (matcher, (token, logprob)) in enumerate(zip(rows[:count], expected, strict=True)):
            masked = (logits[at] if matcher is None else matcher.mask(logits[at])).astype(np.float64)
            lead = masked[token] - np.delete(masked, token).max(initial=-np.inf)
            assert best.runner_up[at] == pytest.approx(logprob - lead, abs=1e-5)
    assert (logits == before).all()


def test_a_favourite_far_above_what_is_allowed(vocabulary: Vocabulary) -> None:
    """The model is certain of a forbidden token: the allowed ones' shares must not vanish."""
    rows = matchers(vocabulary)
    batch = MaskBatch(len(rows), vocabulary)
    batch.compute(rows)
    logits = np.random.default_rng(0).normal(0, 1, (len(rows), vocabulary.size)).astype(np.float32)
    logits[:, ord("!")] = 300.0
    logits[:, 0] = 400.0
    found = batch.best(logits)
    ids, logprobs = found.ids, found.logprobs
    for row, matcher in enumerate(rows):
        best, logprob = plainly(matcher, logits[row])
        assert ids[row] == best
        assert logprobs[row] == pytest.approx(logprob, abs=2e-5)


def test_the_bits(vocabulary: Vocabulary) -> None:
    rows = matchers(vocabulary)
    batch = MaskBatch(len(rows), vocabulary)
    batch.compute(rows)
    unpacked = np.unpackbits(batch.bits.copy().view(np.uint8), axis=1, bitorder="little")[
        :, : vocabulary.size
    ]
    for bits, matcher in zip(unpacked, rows, strict=True):
        allowed = np.isfinite(matcher.mask(np.zeros(vocabulary.size, np.float32)))
        assert (bits.astype(bool) == allowed).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers(vocabulary: Vocabulary, value: float) -> None:
    for matcher in (*matchers(vocabulary), None):
        batch = MaskBatch(1, vocabulary)
        batch.compute([matcher])
        with pytest.raises(InputError, match="not numbers"):
            batch.best(np.full((1, vocabulary.size), value, np.float32))


def test_misuse_and_failures_are_errors(vocabulary: Vocabulary) -> None:
    rows = matchers(vocabulary)
    batch = MaskBatch(2, vocabulary)
    logits = np.zeros((1, vocabulary.size), np.float32)
    with pytest.raises(InputError, match="don't fit"):
        batch.best(logits)
    with pytest.raises(InputError, match="more rows"):
        batch.compute(rows)
    batch.compute(rows[:1])
    broken = vocabulary.matcher(compile_schema({"type": "null"}))
    with pytest.raises(InputError):
        broken.consume(b"x")
    with pytest.raises(InputError, match="could not be enforced"):
        batch.compute([broken])
    with pytest.raises(InputError, match="don't fit"):
        batch.best(logits)


def test_greedy_answers_of_a_batch_are_those_of_one(vocabulary: Vocabulary) -> None:
    """Whole answers, every row another schema, until all are complete."""
    random = np.random.default_rng(3)
    schemas = [
        {"type": "string", "maxLength": 9},
        {"enum": ["a", "bc", 3]},
        {"type": "array", "maxItems": 2, "items": {"type": "boolean"}},
    ]
    rows = [vocabulary.matcher(compile_schema(schema)) for schema in schemas]
    twins = [vocabulary.matcher(compile_schema(schema)) for schema in schemas]
    texts = [b""] * len(rows)
    batch = MaskBatch(len(rows), vocabulary)
    tokens = Words(vocabulary.size)
    for _ in range(40):
        logits = random.normal(0, 4, (len(rows), vocabulary.size)).astype(np.float32)
        open_rows = [at for at, matcher in enumerate(rows) if not matcher.complete]
        if not open_rows:
            break
        batch.compute([rows[at] for at in open_rows])
        ids = batch.best(logits[open_rows]).ids.tolist()
        for at, token in zip(open_rows, ids, strict=True):
            assert token == plainly(twins[at], logits[at])[0]
            rows[at].consume([token])
            twins[at].consume([token])
            texts[at] += tokens.token_bytes(token)
    assert all(matcher.complete for matcher in rows)
    assert [type(json.loads(text)) in (str, int, list) for text in texts] == [True] * 3
