"""Traces of a bundle's answers, one text after the other."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit import chat
from edgekit.bundle import Bundle
from edgekit.calibrate import Extract
from edgekit.confidence import Trace

if TYPE_CHECKING:
    from edgekit.runtimes.constraint import Matcher
    from edgekit.runtimes.engine import Engine, Logits

MAX_TOKENS: Final = 512


@contextmanager
def tracing(bundle: Bundle, threads: int = 0) -> Iterator[Extract]:
    """A bundle with a prompt and a schema, loaded, its artifact's digest checked: greedy answers with their traces."""
    from edgekit.profiles.cpu import usable_cores
    from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

    with bundle.verified() as artifact:
        engine = LlamaCppEngine(artifact, LlamaCppOptions(threads=threads or usable_cores()))
    with closing(engine):
        yield extractor(engine, bundle)


def extractor(engine: Engine, bundle: Bundle) -> Extract:
    """Answers under the bundle's own prompt and schema on an engine; data is None for one that was cut off."""
    from edgekit.runtimes.constraint import Vocabulary, compile_schema

    manifest = bundle.manifest
    vocabulary, grammar = Vocabulary(engine), compile_schema(manifest.output_schema)

    def extract(texts: Sequence[str]) -> Iterator[tuple[str, Trace, Any]]:
        for text in texts:
            prompt = _prompt(engine, (manifest.prompt or "").replace("{text}", text, 1), manifest.system)
            trace = Trace([], [], [])
            whole = len(prompt) < engine.n_ctx and _answer(engine, prompt, vocabulary.matcher(grammar), trace)
            yield text, trace, json.loads(trace.answer) if whole else None

    return extract


def _prompt(engine: Engine, text: str, system: str | None) -> list[int]:
    if engine.chat_template is None:
        bos = engine.specials.get(engine.bos_token) if engine.add_bos else None
        return ([] if bos is None else [bos]) + engine.tokenize(text, special=False)
    messages = [] if system is None else [{"role": "system", "content": system}]
    return chat.tokenize(engine, engine.chat_template, [*messages, {"role": "user", "content": text}])


def _answer(engine: Engine, prompt: list[int], matcher: Matcher, trace: Trace) -> bool:
    """Fill ``trace`` with one answer; whether it was complete before room or tokens ran out."""
    from edgekit.runtimes.engine import Run

    engine.drop(0)
    used = len(prompt)
    tokens = _forced(engine, matcher, trace)
    runs = [Run(0, prompt), Run(0, tokens, (len(tokens) - 1,))] if tokens else [Run(0, prompt, (used - 1,))]
    while not matcher.complete:
        used += len(tokens)
        if used >= engine.n_ctx or len(trace.pieces) >= MAX_TOKENS:
            return False
        logits = engine.decode(runs)[0]
        token, logprob, runner_up = choose(matcher.mask(logits))
        trace.logprobs.append(logprob)
        trace.runner_up.append(runner_up)
        if token in engine.eos_ids:
            trace.pieces.append(b"")
            return True
        trace.pieces.append(engine.token_bytes(token))
        matcher.consume([token])
        tokens = [token, *_forced(engine, matcher, trace)]
        runs = [Run(0, tokens, (len(tokens) - 1,))]
    return True


def _forced(engine: Engine, matcher: Matcher, trace: Trace) -> list[int]:
    if matcher.complete:
        return []
    tokens = [token for token in matcher.forced() if token not in engine.eos_ids]
    matcher.consume(tokens)
    trace.pieces.extend(map(engine.token_bytes, tokens))
    trace.logprobs.extend([0.0] * len(tokens))
    trace.runner_up.extend([-math.inf] * len(tokens))
    return tokens


def choose(masked: Logits) -> tuple[int, float, float]:
    """The likeliest token of logits ``(n_vocab,)`` with forbidden ones at minus infinity; its log-probability, and the
    runner-up's (minus infinity where only one is allowed)."""
    token = int(masked.argmax())
    allowed = masked[np.isfinite(masked)].astype(np.float64)
    top = float(masked[token])
    logprob = -math.log(float(np.exp(allowed - top).sum()))
    if len(allowed) == 1:
        return token, 0.0, -math.inf
    second = float(np.partition(allowed, -2)[-2])
    return token, logprob, logprob + second - top
