"""Answers under a grammar by random logits over bytes: no model, every allowed path has a chance."""

from __future__ import annotations

import numpy as np

from edgekit.runtimes.constraint import Vocabulary
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.grammars import Grammar

ENGINE = FakeEngine("x")
VOCABULARY = Vocabulary(ENGINE)


def walk(grammar: Grammar, seed: int, steps: int = 1500) -> bytes | None:
    """A complete answer; ``None`` where it was not complete after so many tokens. Errors of the matcher go through."""
    random = np.random.default_rng(seed)
    matcher = VOCABULARY.matcher(grammar)
    text = b""
    for _ in range(steps):
        if matcher.complete:
            return text
        logits = random.normal(0, 4, VOCABULARY.size).astype(np.float32)
        # What closes something comes more often, or few answers would ever end.
        for byte in b'"]}':
            logits[byte] += 8
        logits[sorted(ENGINE.eos_ids)] += 8
        token = int(matcher.mask(logits).argmax())
        if token in ENGINE.eos_ids:
            return text
        assert token < 256, "a control token"
        matcher.consume([token])
        text += bytes([token])
    return None
