"""What goes into a call and what comes out of it: the options, an extraction, a whole answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.runtimes.request import Finish


class AnswerOptions(TypedDict, total=False):
    """What every call takes; see ``runtimes.sampling.Sampling`` for the meaning of the last seven."""

    max_tokens: int
    deadline: float
    stop: str | Sequence[str]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None
    repetition_penalty: float
    repetition_window: int


class Options(AnswerOptions, total=False):
    """And what the answer is held to: one of these at most."""

    schema: Any
    """A JSON Schema, or the class of a pydantic model, a dataclass or a TypedDict."""
    regex: str | None
    lark: str | None
    choices: Sequence[str] | None


@dataclass(frozen=True)
class Failure:
    """Why a record has no data: a code for programs, a message for people."""

    code: Literal["empty", "encoding", "too_long", "truncated", "invalid", "deadline"]
    message: str


@dataclass(frozen=True)
class Extraction:
    """One text's fields; ``data`` is None exactly where there is a ``failure``."""

    data: Any
    """As JSON has it; an instance where the schema was a class."""
    text: str
    """The answer as the model wrote it, also where it was cut off."""
    truncated: bool
    """``max_tokens`` or the context ended the answer."""
    tokens: int
    seconds: float
    confidence: Mapping[str, float] = field(default_factory=dict)
    """By field, 0 to 1: ``name``, ``address.city``, ``items[0].price``."""
    overall: float = 0.0
    """That all fields are right."""
    needs_review: bool = False
    """There is a failure, or a confidence is below the threshold that was asked for."""
    calibrated: bool = False
    """Whether the confidences were fitted to labelled data; otherwise they only rank."""
    failure: Failure | None = None


@dataclass(frozen=True)
class Classification:
    """How likely each label is."""

    label: str
    """The likeliest."""
    probabilities: Mapping[str, float]
    """Of each label among the labels; they add up to 1."""
    mass: float
    """The probability under the model that the answer is any of the labels: near 0 it would say something else."""
    seconds: float


def collect(pieces: Iterable[str | Finish]) -> tuple[str, Finish]:
    """A whole answer: its text, and how it ended."""
    *texts, finish = pieces
    if isinstance(finish, str):
        raise TypeError("an answer ends with its Finish")
    return "".join(text for text in texts if isinstance(text, str)), finish


def parse(answer: str) -> Any:
    """The value of a complete answer under a schema."""
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise InputError(
            "the answer matches the schema, but Python can't hold it",
            found=f"{error}; {answer[:100]}",
            next_step="bound the schema's numbers and its nesting",
        ) from error
