"""Chat templates: from messages to a model's prompt, as transformers renders it, in bounded time and space."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache, lru_cache
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol

from edgekit.errors import EdgekitError, InputError
from edgekit.plain_templates import strips

if TYPE_CHECKING:
    from jinja2 import Template

    from edgekit.sandbox import TemplateEnvironment

MAX_SOURCE: Final = 256 * 1024
MAX_SECONDS: Final = 2.0
ASSEMBLED: Final = 1 << 19
"""Characters of a prompt that is put together; a longer one is rendered, which minds its bounds."""
_TEMPLATE_FILE: Final = "<template>"
_STRFTIME: Final = re.compile(r"(?:[^%]|%[-_0^#]?[a-zA-Z%])*")
_ROLE: Final = re.compile(r"[A-Za-z][\w.-]*")
_SENTINELS: Final = (0x100000, 0xF0000)
"""First code points of two private-use planes: no text has a meaning there."""

Message = Mapping[str, Any]


class Tokenizer(Protocol):
    """The part of an engine that turns a rendered chat into ids."""

    specials: Mapping[str, int]
    bos_token: str
    eos_token: str

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids; control tokens are recognised only if ``special``."""
        ...


class _Timeout(BaseException):
    """Not an ``Exception``, so that nothing within jinja can swallow it."""


def choose(
    templates: str | Sequence[Mapping[str, str]], name: str | None = None, *, tools: bool = False
) -> str:
    """The template to use from one, or from a list of ``{"name", "template"}``.

    Without a name: ``tool_use`` where there are tools, else ``default``, else the only one there is.
    """
    if isinstance(templates, str):
        return templates
    named = {entry["name"]: entry["template"] for entry in templates}
    wanted = [name] if name else (["tool_use"] if tools else []) + ["default"]
    for candidate in wanted:
        if candidate in named:
            return named[candidate]
    if name is None and len(named) == 1:
        return next(iter(named.values()))
    raise InputError("no such chat template", found=name, expected=", ".join(named) or "at least one")


def render(
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
    tools: Sequence[Mapping[str, Any]] | None = None,
    now: datetime | None = None,
    name: str = "the chat template",
) -> str:
    """The prompt for ``messages``; the same text as transformers' ``apply_chat_template``.

    ``now`` fixes the clock of ``strftime_now``. Raises ``InputError`` with the line for whatever goes wrong: a mistake
    in the template, its own ``raise_exception``, an unsafe attribute, over 2 seconds or 1 MiB.
    """
    from edgekit.sandbox_parts import bounded

    context = {
        "messages": _plain(messages, "messages"),
        "tools": _plain(tools, "tools"),
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "strftime_now": lambda form: _strftime(form, now),
    }
    parts: list[str] = []
    with _failures(name), _deadline():
        environment = _environment()
        environment.start(context["messages"], context["tools"])
        length = 0
        for part in _compiled(template).generate(context):
            length = bounded(length + len(part))
            parts.append(part)
    return "".join(parts)


def tokenize(tokenizer: Tokenizer, template: str, messages: Sequence[Message], **options: Any) -> list[int]:
    """Render ``messages`` and turn them into ids; control tokens come from the template alone.

    A control token's text in a message or a tool stays text: otherwise whoever writes a message could end the
    user's turn and speak as the system. ``options`` are those of ``render``.
    """
    options = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token} | options
    for message in messages:
        _check_role(message)
    specials, pattern = _specials(tuple(tokenizer.specials))
    texts = [*_texts(messages), *_texts(options.get("tools"))]
    if not (specials and any(map(pattern.search, texts))):
        prompt = _assembled(template, messages, options)
        return tokenizer.tokenize(prompt or render(template, messages, **options), special=True)
    to_sentinel = dict(zip(specials, _sentinels(texts, len(specials)), strict=True))

    def hide(text: str) -> str:
        return pattern.sub(lambda match: to_sentinel[match[0]], text)

    options["tools"] = _map_texts(options.get("tools"), hide)
    rendered = render(template, _map_texts(messages, hide), **options)
    back = str.maketrans({sentinel: special for special, sentinel in to_sentinel.items()})
    ids: list[int] = []
    at = 0
    for match in [*pattern.finditer(rendered), None]:
        fragment = rendered[at : match.start() if match else None].translate(back)
        if fragment:
            ids += tokenizer.tokenize(fragment, special=False)
        if match:
            ids.append(tokenizer.specials[match[0]])
            at = match.end()
    return ids


@lru_cache(maxsize=16)
def _specials(names: tuple[str, ...]) -> tuple[list[str], re.Pattern[str]]:
    """Control tokens' texts, the longest first, and what finds them."""
    specials = sorted(filter(None, names), key=len, reverse=True)
    return specials, re.compile("|".join(map(re.escape, specials)))


def _assembled(template: str, messages: Sequence[Message], options: Mapping[str, Any]) -> str | None:
    """The same text as ``render``'s, from pieces that were rendered before; None where that can't be known."""
    roles, contents = [], []
    for message in messages:
        content = message.get("content")
        if type(content) is not str or len(message) != 2:
            return None
        roles.append(message["role"])
        contents.append(content)
    if options.keys() - {"bos_token", "eos_token", "add_generation_prompt"}:
        return None
    strip = strips(template)
    if strip is None:
        return None
    found = _pieces(
        template,
        tuple(roles),
        options["bos_token"],
        options["eos_token"],
        options.get("add_generation_prompt", True),
    )
    if found is None:
        return None
    pieces, order = found
    parts = [pieces[0]]
    for index, piece in zip(order, pieces[1:], strict=True):
        parts += (contents[index].strip() if strip else contents[index], piece)
    prompt = "".join(parts)
    return prompt if len(prompt) <= ASSEMBLED else None


@lru_cache(maxsize=64)
def _pieces(
    template: str, roles: tuple[str, ...], bos_token: str, eos_token: str, add_generation_prompt: bool
) -> tuple[list[str], list[int]] | None:
    """What a plain template puts around contents, and which message's content comes between each two pieces."""
    first = _SENTINELS[1]
    marks = [chr(first + index) for index in range(len(roles))]
    if len(marks) > 0xFFFE:
        return None
    messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    text = render(
        template,
        messages,
        add_generation_prompt=add_generation_prompt,
        bos_token=bos_token,
        eos_token=eos_token,
    )
    place = re.compile(f"[{marks[0]}-{marks[-1]}]") if marks else None
    if place is None or any(ord(character) >= first for character in template + bos_token + eos_token):
        return None
    return place.split(text), [ord(mark) - first for mark in place.findall(text)]


@cache
def _environment() -> TemplateEnvironment:
    from edgekit.sandbox import TemplateEnvironment

    return TemplateEnvironment()


@lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    if len(source) > MAX_SOURCE or len(source.encode("utf-8", "replace")) > MAX_SOURCE:
        raise InputError("the chat template is too long", expected=f"at most {MAX_SOURCE} bytes")
    environment = _environment()
    environment.start()  # constant expressions are evaluated while compiling, and priced like others
    return environment.from_string(source)


@contextmanager
def _deadline() -> Iterator[None]:
    """Stop this thread's Python after two seconds, even in a loop that emits nothing.

    A trace function sees every line of a template; what one line can do is bounded by the sandbox.
    """
    end = perf_counter() + MAX_SECONDS

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if perf_counter() > end:
            raise _Timeout
        return trace if frame.f_code.co_filename == _TEMPLATE_FILE else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def _failures(name: str) -> Iterator[None]:
    """Turn whatever a template makes Python raise into an ``InputError`` with the template's line."""
    try:
        yield
    except _Timeout as error:
        raise InputError(f"{name} does not end", expected=f"at most {MAX_SECONDS:g} s") from error
    except EdgekitError:
        raise
    except Exception as error:
        line = getattr(error, "lineno", None)
        trace = error.__traceback__
        while trace is not None and not isinstance(line, int):
            if trace.tb_frame.f_code.co_filename == _TEMPLATE_FILE:
                line = trace.tb_lineno
            trace = trace.tb_next
        where = f", line {line}" if isinstance(line, int) else ""
        raise InputError(f"{name} fails{where}", found=f"{type(error).__name__}: {error}"[:500]) from error


def _strftime(form: Any, now: datetime | None) -> str:
    """The clock; formats with a width, which some C libraries take up to gigabytes, are refused."""
    if not isinstance(form, str) or len(form) > 256 or not _STRFTIME.fullmatch(form):
        raise InputError("the chat template asks for a date in a form that isn't one", found=repr(form)[:100])
    return (now or datetime.now()).strftime(form)


def _plain(value: Any, what: str, depth: int = 0) -> Any:
    """A copy made of plain JSON types: an object's own methods must not be within a template's reach."""
    if value is None or isinstance(value, bool):
        return value
    if depth > 64:
        raise InputError(f"{what} are nested too deep", expected="at most 64 levels")
    for kind in (str, int, float):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    if isinstance(value, Mapping):
        return {_plain(key, what, depth + 1): _plain(item, what, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, what, depth + 1) for item in value]
    raise InputError(f"{what} hold something that isn't JSON", found=type(value).__name__)


def _check_role(message: Message) -> None:
    """Some templates write ``<|role|>``: a role that is no name could spell a control token."""
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise InputError("a message needs a role such as user, assistant or system", found=repr(role)[:100])


def _texts(value: Any) -> Iterator[str]:
    """Every text within a message, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _map_texts(value: Any, change: Any) -> Any:
    """The same structure with every text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_map_texts(key, change): _map_texts(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(item, change) for item in value]
    return value


def _sentinels(texts: Sequence[str], count: int) -> list[str]:
    """Characters that stand for control tokens while rendering; none of them occurs in the texts."""
    used = {character for text in texts for character in text if ord(character) >= min(_SENTINELS)}
    for first in _SENTINELS:
        sentinels = [chr(first + index) for index in range(count)]
        if count <= 0xFFFE and used.isdisjoint(sentinels):
            return sentinels
    raise InputError("a message holds private-use characters that edgekit needs itself")
