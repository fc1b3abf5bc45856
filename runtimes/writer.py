"""One answer in the making: chooses tokens, turns them into text, knows when to end; the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.runtimes.constraint import Matcher
from edgekit.runtimes.engine import Engine, Logits
from edgekit.runtimes.request import Reason, Request, Trace
from edgekit.runtimes.sampling import GREEDY, Sampler
from edgekit.runtimes.text import TextStream


class Writer:
    """Turns logits into tokens, one call per step; ``tokens`` is the answer so far."""

    def __init__(self, engine: Engine, request: Request, budget: int, matcher: Matcher | None) -> None:
        self._bytes = engine.token_bytes
        self._eos = engine.eos_ids
        self._sampler = Sampler(request.sampling)
        self.greedy = request.sampling == GREEDY and not request.answer
        """Whether the likeliest allowed token is always the one."""
        self._given = request.answer
        self._stream = TextStream(request.stop)
        self.matcher = matcher
        self._budget = budget
        self._eos_came = False
        self._complete = False
        self.tokens: list[int] = []
        self.trace = Trace() if request.trace else None

    def begin(self) -> list[int]:
        """Tokens that the schema, or the given answer, puts at the very beginning."""
        if not self._given:
            return self._forced()
        self.tokens += self._given
        return list(self._given)

    def score(self, rows: Logits) -> None:
        """Note the given answer's log-probabilities: ``rows`` are the logits before each token and after the last."""
        assert self.trace is not None
        ends = sorted(self._eos)
        for token, logits in zip((*self._given, None), rows, strict=True):
            value = logsumexp(logits[ends]) if token is None else float(logits[token])
            self.trace.note(ends[0] if token is None else token, value - logsumexp(logits), -np.inf)
        self._complete = True

    def choose(self, logits: Logits, prompt: Sequence[int]) -> list[int]:
        """The next token by ``logits`` ``(n_vocab,)``, and those that the schema forces after it; none at the end."""
        if self.matcher is not None:
            logits = self.matcher.mask(logits)
        recent: Sequence[int] = ()
        if not self.greedy and self._sampler.window:
            recent = [*prompt[-self._sampler.window :], *self.tokens]
        token = self._sampler.pick(logits, recent)
        if self.trace is None:
            return self.take(token)
        total = logsumexp(logits)
        value = float(logits[token])
        others = np.delete(logits, token)
        return self.take(token, value - total, float(others.max(initial=-np.inf)) - total)

    def take(self, token: int, logprob: float = 0.0, runner_up: float = -np.inf) -> list[int]:
        """Accept a token that was chosen; it, and those that the schema forces after it, or none at the end."""
        if self.trace is not None:
            self.trace.note(token, logprob, runner_up)
        if token in self._eos:
            self._eos_came = True
            return []
        self.tokens.append(token)
        if self.matcher is None:
            return [token]
        self.matcher.consume((token,))
        return [token, *self._forced()]

    def _forced(self) -> list[int]:
        """Tokens that can only come next: they skip sampling and are decoded as one run."""
        if self.matcher is None:
            return []
        tokens: list[int] = []
        complete = self.matcher.complete
        if not complete and (tokens := [token for token in self.matcher.forced() if token not in self._eos]):
            self.matcher.consume(tokens)
            complete = self.matcher.complete
        room = self._budget - len(self.tokens)
        self._complete = complete and len(tokens) <= room
        tokens = tokens[:room]
        self.tokens += tokens
        if self.trace is not None:
            self.trace.force(tokens)
        return tokens

    def ended(self) -> Reason | None:
        """Why the answer is over, if it is."""
        if self._given:  # scored as a whole, however long
            return "stop" if self._complete else None
        if self._eos_came:
            return "stop" if self.matcher is None else "schema"
        if self._complete:
            return "stop" if self.matcher is None else "schema"
        if self._stream.stopped:
            return "stop"
        return "length" if len(self.tokens) >= self._budget else None

    def text(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete."""
        if len(tokens) == 1:
            return self._stream.feed(self._bytes(tokens[0]))
        return self._stream.feed(b"".join(map(self._bytes, tokens)))

    def rest(self) -> str:
        """What was held back at the end."""
        return self._stream.finish()


def logsumexp(logits: Logits) -> float:
    """Natural logarithm of the sum of exponentials of ``(n,)`` logits, some of which may be minus infinity."""
    top = float(logits.max())
    return top + float(np.log(np.exp(logits - np.float32(top)).sum(dtype=np.float64)))
