"""A call's options as a request for the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from edgekit.arguments import check_options
from edgekit.errors import InputError
from edgekit.runtimes.grammars import Grammar, GrammarCache, choice_grammar, lark_grammar, regex_grammar
from edgekit.runtimes.request import Request
from edgekit.runtimes.sampling import Sampling
from edgekit.schemas import as_json_schema


def asked(options: Mapping[str, Any], grammars: GrammarCache) -> Request:
    """The request for these options; ``InputError`` for values out of range and for what can't be enforced."""
    check_options(options)
    rest = dict(options)
    stop = rest.pop("stop", ())
    given = {name: rest.pop(name) for name in ("schema", *_KINDS) if rest.get(name) is not None}
    for name in ("schema", *_KINDS):
        rest.pop(name, None)
    if len(given) > 1:
        raise InputError("an answer can be held to one thing only", found=", ".join(given))
    grammar = None
    for name, value in given.items():
        grammar = grammars.get(as_json_schema(value)) if name == "schema" else _KINDS[name](value)
    return Request(
        max_tokens=rest.pop("max_tokens", Request.max_tokens),
        deadline=rest.pop("deadline", None),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        grammar=grammar,
        sampling=Sampling(**rest),
    )


@lru_cache(maxsize=16)
def _regex(pattern: str) -> Grammar:
    return regex_grammar(pattern)


@lru_cache(maxsize=16)
def _lark(text: str) -> Grammar:
    return lark_grammar(text)


@lru_cache(maxsize=16)
def _choices(choices: tuple[str, ...]) -> Grammar:
    return choice_grammar(choices)


def _choice_list(choices: Any) -> Grammar:
    if isinstance(choices, str) or not all(isinstance(choice, str) for choice in choices):
        raise InputError("choices are a list of texts", found=repr(choices)[:100])
    return _choices(tuple(choices))


_KINDS: Final[Mapping[str, Callable[[Any], Grammar]]] = {
    "regex": _regex,
    "lark": _lark,
    "choices": _choice_list,
}
