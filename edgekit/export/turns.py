"""A chat template taken apart: what stands before and after each turn, proved on conversations; other tools can't run Jinja."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from edgekit import chat
from edgekit.errors import InputError, UnsupportedModelError

if TYPE_CHECKING:
    from edgekit.runtimes.engine import Engine

Turn = Mapping[str, str]
Render = Callable[[Sequence[Turn], bool], str]
_USER, _OTHER, _ANSWER, _SYSTEM = "qz7u1", "qz7u2", "qz7a1", "qz7s1"
_LATER: Final = timedelta(days=1000)


@dataclass(frozen=True)
class Turns:
    """A prompt is ``bare`` where no system turn is first, then each turn between its two texts, then ``answer``."""

    bare: str
    around: Mapping[str, tuple[str, str]]
    """By role what stands before and after; no ``system`` where the template refuses or drops it."""
    answer: str
    dated: bool = False
    """The template prints the day: these texts are those of one day."""

    def prompt(self, messages: Sequence[Turn]) -> str:
        """What the template makes of a conversation, the place for the answer last."""
        opening = "" if messages and messages[0]["role"] == "system" else self.bare
        turns = (message["content"].join(self.around[message["role"]]) for message in messages)
        return opening + "".join(turns) + self.answer


def turns_of(engine: Engine, now: datetime) -> Turns:
    """Take an artifact's template apart, as of ``now``; ``UnsupportedModelError`` where it does more than surround turns.

    A bos token in front is left out where the tokenizer adds one itself.
    """
    template = engine.chat_template
    if not template:
        raise UnsupportedModelError(
            "the model has no chat template, so tools can't be told how it is asked",
            next_step="build from a checkpoint that has one, or run the bundle with edgekit",
        )

    def render(messages: Sequence[Turn], answer: bool, when: datetime = now) -> str:
        text = chat.render(
            template, messages, add_generation_prompt=answer, bos_token=engine.bos_token,
            eos_token=engine.eos_token, now=when,
        )  # fmt: skip
        return text.removeprefix(engine.bos_token) if engine.add_bos else text

    found = _apart(render)
    dated = False
    for messages in _conversations("system" in found.around):
        prompt = render(messages, True)
        _same(found.prompt(messages), prompt)
        dated |= render(messages, True, now + _LATER) != prompt
    return replace(found, dated=dated)


def _apart(render: Render) -> Turns:
    user = [{"role": "user", "content": _USER}]
    said = [*user, {"role": "assistant", "content": _ANSWER}]
    first, after_user = _cut(render(user, False), _USER)
    _, between, after_answer = _cut(render(said, False), _USER, _ANSWER)
    before_answer = _without(between, after_user, first=True)
    _, _, again, _ = _cut(render([*said, {"role": "user", "content": _OTHER}], False), _USER, _ANSWER, _OTHER)
    before_user = _without(again, after_answer, first=True)
    around = {"user": (before_user, after_user), "assistant": (before_answer, after_answer)}
    if system := _system(render, user, before_user):
        around["system"] = system
    answer = _without(render(user, True), first + _USER + after_user, first=True)
    return Turns(_without(first, before_user, first=False), around, answer)


def _system(render: Render, user: Sequence[Turn], before_user: str) -> tuple[str, str] | None:
    try:
        text = render([{"role": "system", "content": _SYSTEM}, *user], False)
    except InputError:
        return None
    if _SYSTEM not in text:
        return None
    before, between, _ = _cut(text, _SYSTEM, _USER)
    return (before, between.removesuffix(before_user)) if between.endswith(before_user) else None


def _conversations(system: bool) -> list[list[Turn]]:
    def turns(*contents: str) -> list[Turn]:
        return [
            {"role": ("user", "assistant")[at % 2], "content": content} for at, content in enumerate(contents)
        ]

    plain = [
        turns("Hi"),
        turns("Table for 4, tomorrow at 7:30 pm — name: Zoë Müller\n\n{{ not }} a template"),
        turns("Hi", "Hello! What can I do?", "我想在 12 月订位 🍜"),
        turns("1", "one", "2", "two", "3"),
    ]
    first: Turn = {"role": "system", "content": "Answer briefly.\nAlways in JSON."}
    return [*plain, *([first, *messages] for messages in plain if system)]


def _cut(text: str, *marks: str) -> list[str]:
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise _refused("it changes, drops or repeats what was said")
        parts.append(before)
    return [*parts, text]


def _without(text: str, part: str, *, first: bool) -> str:
    if not (text.startswith(part) if first else text.endswith(part)):
        raise _refused("what stands around a turn depends on the turns beside it")
    return text.removeprefix(part) if first else text.removesuffix(part)


def _same(ours: str, theirs: str) -> None:
    if ours != theirs:
        at = next((at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), 0)
        raise _refused(f"it makes {theirs[max(0, at - 20) : at + 40]!r} of a conversation, at character {at}")


def _refused(why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "this chat template can't be said in the words of a tool without Jinja", found=why,
        next_step="llama-server runs the template itself: --to llama-server",
    )  # fmt: skip
