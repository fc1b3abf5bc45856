"""What is asked of the scheduler, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgekit.errors import InputError
from edgekit.runtimes.constraint import Grammar
from edgekit.runtimes.sampling import GREEDY, Sampling

Reason = Literal["stop", "length", "schema"]


@dataclass(frozen=True)
class Request:
    """What to generate and when to end it."""

    max_tokens: int = 512
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    trace: bool = False
    """Keep every token with its log-probability, for confidences."""
    deadline: float | None = None
    """Seconds from the call on after which the answer is given up with an error; unset: never."""
    answer: tuple[int, ...] = ()
    """Tokens to follow instead of choosing any; with ``trace`` this scores them."""

    def __post_init__(self) -> None:
        if not (isinstance(self.max_tokens, int) and self.max_tokens >= 1):
            raise InputError("max_tokens is out of range", found=self.max_tokens, expected="1 or more")
        if self.deadline is not None and not self.deadline > 0:
            raise InputError("the deadline is out of range", found=self.deadline, expected="seconds above 0")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise InputError("stop strings are a list of texts, none of them empty", found=repr(self.stop))
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
    """From the call to the last token, the time in the queue included."""
    first_token_seconds: float
    """Until the prompt was computed and the first token could be chosen."""
    trace: Trace | None = None


@dataclass
class Trace:
    """An answer token by token, the one that ended it too, where the model chose to end.

    ``logprobs`` are natural logarithms of the probability among the tokens that the schema allowed there, 0 for
    tokens that it forced; ``runner_up`` is that of the best other one, minus infinity where there was none.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    runner_up: list[float] = field(default_factory=list)

    def note(self, token: int, logprob: float, runner_up: float) -> None:
        """Note a token that was chosen."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.runner_up.append(runner_up)

    def force(self, tokens: Sequence[int]) -> None:
        """Note tokens that could only come next."""
        self.tokens += tokens
        self.logprobs += [0.0] * len(tokens)
        self.runner_up += [float("-inf")] * len(tokens)
