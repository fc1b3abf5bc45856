"""What goes into a call and what comes out of it: the options, an extraction, a whole answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.runtimes.generate import Finish


class AnswerOptions(TypedDict, total=False):
    """What every call takes; see ``runtimes.sampling.Sampling`` for the meaning of the last seven."""

    max_tokens: int
    stop: str | Sequence[str]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None
    repetition_penalty: float
    repetition_window: int


class Options(AnswerOptions, total=False):
    """And the JSON schema that the answer must match."""

    schema: Mapping[str, Any] | None


@dataclass(frozen=True)
class Extraction:
    """One text's fields; ``data`` is None exactly where the answer was cut off (``truncated``)."""

    data: Any
    text: str
    truncated: bool
    tokens: int
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
