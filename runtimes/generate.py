"""The loop from a prompt's tokens to an answer's text, the same for every engine; one sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Literal

from edgekit.errors import InputError, UnsupportedModelError
from edgekit.runtimes.constraint import Grammar, Matcher, Vocabulary
from edgekit.runtimes.engine import Engine, Logits, Run
from edgekit.runtimes.sampling import GREEDY, Sampler, Sampling
from edgekit.runtimes.text import TextStream

Reason = Literal["stop", "length", "schema"]

STEP: Final = 512
"""Prompt tokens per decode, llama.cpp's own batch, so that cutting a prompt here costs nothing. The cache is reused
in whole steps, because the same token computed in a batch of another size has slightly other logits: what was asked
before must not change an answer."""
TAIL: Final = 32
"""The last decode of a prompt has at least this many tokens where there are steps before it: a handful alone
would cost a pass over the weights of its own."""


@dataclass(frozen=True)
class Request:
    """What to generate and when to end it."""

    max_tokens: int = 512
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    exact: bool = True
    """Give the same answer whatever was asked before; otherwise reuse every cached token, also half a step."""

    def __post_init__(self) -> None:
        if not (isinstance(self.max_tokens, int) and self.max_tokens >= 1):
            raise InputError("max_tokens is out of range", found=self.max_tokens, expected="1 or more")
        if self.grammar is not None and self.stop:
            raise InputError(
                "stop strings and an output schema don't go together: a stop string could cut the JSON short"
            )


@dataclass(frozen=True)
class Finish:
    """How an answer ended."""

    reason: Reason
    """``stop``: the model's end or a stop string; ``length``: cut off; ``schema``: the JSON is complete."""
    tokens: int
    prompt_tokens: int
    seconds: float
    """From the start of the call, the consumer's time between pieces included."""
    first_token_seconds: float
    """Until the prompt was computed and the first token could be chosen."""


class Session:
    """Sequence 0 of an engine and what its cache holds; keeps what the next prompt can reuse."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._cached: list[int] = []
        self._exact = 0
        """Leading cached tokens that were computed in whole steps."""
        self._vocabulary: Vocabulary | None = None

    def generate(self, prompt: Sequence[int], request: Request) -> Iterator[str | Finish]:
        """Yield the answer in pieces of text, then one ``Finish``; may be abandoned at any piece.

        Raises ``InputError`` at once for a prompt that is empty or doesn't fit the context.
        """
        if not prompt:
            raise InputError("the prompt is empty")
        room = self.engine.n_ctx - len(prompt)
        if room < 0:
            raise InputError(
                "the prompt doesn't fit the context",
                found=f"{len(prompt)} tokens",
                expected=f"at most {self.engine.n_ctx}",
                next_step="shorten it, or load the model with a larger n_ctx",
            )
        # The last token of an answer is never decoded, so it needs no room.
        budget = min(request.max_tokens, room + 1)
        return self._pieces(list(prompt), request, budget)

    def _pieces(self, prompt: list[int], request: Request, budget: int) -> Iterator[str | Finish]:
        started = perf_counter()
        answer = _Answer(self.engine, request, budget, self._matcher(request.grammar))
        run = answer.forced()
        reason = answer.ended()
        logits = None if reason else self._prefill(prompt, request.exact, run)
        first = perf_counter() - started
        history = prompt + run
        text = answer.text(run)
        while True:
            if text:
                yield text
            if reason or logits is None:
                break
            run = answer.choose(logits, history)
            text = answer.text(run)
            history += run
            reason = answer.ended()
            if not reason:
                logits = self._append(run)
        if rest := answer.rest():
            yield rest
        seconds = perf_counter() - started
        yield Finish(reason or "stop", answer.tokens, len(prompt), seconds, first)

    def _matcher(self, grammar: Grammar | None) -> Matcher | None:
        if grammar is None:
            return None
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self.engine)
        return self._vocabulary.matcher(grammar)

    def _append(self, tokens: list[int]) -> Logits:
        """Decode tokens after what is cached; logits after the last."""
        logits = self.engine.decode([Run(0, tokens, (len(tokens) - 1,))])[0]
        self._cached += tokens
        return logits

    def _prefill(self, prompt: list[int], exact: bool, forced: list[int]) -> Logits:
        """Bring the cache to hold ``prompt`` and what the schema forces after it; logits after that.

        Computes what the cache lacks, and always the last token of the prompt.
        """
        common = 0
        for cached, token in zip(self._cached, prompt[:-1], strict=False):
            if cached != token:
                break
            common += 1
        last = STEP * max(0, (len(prompt) - TAIL) // STEP) if exact else common
        keep = min(common, self._exact, last) // STEP * STEP if exact else common
        keep = self._forget(keep)
        last = last if exact else keep
        for start in range(keep, last, STEP):
            chunk = prompt[start : start + STEP]
            self.engine.decode([Run(0, chunk)])
            self._cached += chunk
            self._exact = len(self._cached)
        if not forced:
            return self._append(prompt[last:])
        runs = [Run(0, prompt[last:]), Run(0, forced, (len(forced) - 1,))]
        logits = self.engine.decode(runs)[0]
        self._cached += prompt[last:] + forced
        return logits

    def _forget(self, keep: int) -> int:
        """Drop the cache from ``keep`` on; done even where nothing is left to drop, which repairs the engine
        after an interrupt between its decode and our note of it. Returns how much was kept: nothing where the
        cache is a state that can't go back."""
        try:
            self.engine.drop(0, keep)
        except UnsupportedModelError:
            keep = 0
            self.engine.drop(0)
        del self._cached[keep:]
        self._exact = min(self._exact, keep // STEP * STEP)
        return keep


class _Answer:
    """One answer in the making: chooses tokens, turns them into text, knows when to end."""

    def __init__(self, engine: Engine, request: Request, budget: int, matcher: Matcher | None) -> None:
        self._bytes = engine.token_bytes
        self._eos = engine.eos_ids
        self._sampler = Sampler(request.sampling)
        self._stream = TextStream(request.stop)
        self._matcher = matcher
        self._budget = budget
        self._eos_came = False
        self._complete = False
        self.tokens = 0

    def choose(self, logits: Logits, history: Sequence[int]) -> list[int]:
        """The next token, and those that the schema forces after it; nothing at the end of the answer."""
        if self._matcher is not None:
            logits = self._matcher.mask(logits)
        token = self._sampler.pick(logits, history)
        if token in self._eos:
            self._eos_came = True
            return []
        if self._matcher is None:
            self.tokens += 1
            return [token]
        self._matcher.consume([token])
        self.tokens += 1
        return [token, *self.forced()]

    def forced(self) -> list[int]:
        """Tokens that can only come next: they skip sampling and are decoded as one run."""
        if self._matcher is None:
            return []
        tokens: list[int] = []
        if not self._matcher.complete:
            tokens = [token for token in self._matcher.forced() if token not in self._eos]
            self._matcher.consume(tokens)
        room = self._budget - self.tokens
        self._complete = self._matcher.complete and len(tokens) <= room
        tokens = tokens[:room]
        self.tokens += len(tokens)
        return tokens

    def ended(self) -> Reason | None:
        """Why the answer is over, if it is."""
        if self._eos_came:
            return "stop" if self._matcher is None else "schema"
        if self._complete:
            return "schema"
        if self._stream.stopped:
            return "stop"
        return "length" if self.tokens >= self._budget else None

    def text(self, tokens: list[int]) -> str:
        """The text that these tokens complete."""
        if len(tokens) == 1:
            return self._stream.feed(self._bytes(tokens[0]))
        return self._stream.feed(b"".join(map(self._bytes, tokens)))

    def rest(self) -> str:
        """What was held back at the end."""
        return self._stream.finish()
