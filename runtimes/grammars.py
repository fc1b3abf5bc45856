"""From a schema, a regex, a Lark grammar or a list of choices to a ``Grammar`` that llguidance accepted whole.

Fails closed: what can't be enforced, or not within the limits, is an error here. llguidance's own limits count work,
not time; ``LIMITS`` and ``schema_limits`` are set so that whatever is accepted takes well under a second to compile.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

import llguidance
from llguidance import TokenizerWrapper

from edgekit.errors import InputError
from edgekit.runtimes.schema import MAX_BYTES, as_text, check_schema
from edgekit.runtimes.schema_limits import MAX_CHOICES

_T = TypeVar("_T")

LIMITS: Final = {
    # Nodes of the regexes' trees and of what building the lexer makes of them: 250,000 take 0.1 s.
    "initial_lexer_fuel": 250_000,
    # The same for one mask. A pattern such as ((a{100}){100}){100} takes 0.1 s to use it up, 0.65 s at the default.
    "step_lexer_fuel": 50_000,
    # Earley items of one mask: 20 ms. A grammar whose alternatives all stay open needs them.
    "step_max_items": 20_000,
    "max_items_in_row": 2_000,
    # States of the lexer over a whole answer, 1 to 2 kB each.
    "max_lexer_states": 50_000,
    # Symbols of the grammar's rules: a thousand properties need 11,000.
    "max_grammar_size": 200_000,
}
"""What ``LLParserLimits`` takes; running out of any is an error, never a looser mask."""

_COMPACT: Final = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
}
_EOS: Final = 256
_PROBED: Final = 4
"""Masks of the trial run: most patterns that are too big to run fail at the second."""


@dataclass(frozen=True)
class Grammar:
    """What llguidance accepted whole; serves any number of answers."""

    source: str
    schema: str | None = None
    """The JSON schema as compact text; none for a regex, a Lark grammar or a list of choices."""
    choices: tuple[str, ...] = ()


def compile_schema(schema: Any) -> Grammar:
    """Turn a JSON schema into a grammar for compact JSON, keys in the order of ``properties``.

    Raises ``InputError`` that names the keyword for whatever would be ignored, approximated or refused.
    """
    text = check_schema(schema)
    source = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_COMPACT)
    return Grammar(_tried("output schema", source), schema=text)


def regex_grammar(pattern: str) -> Grammar:
    """A grammar for text that ``pattern`` matches from its first character to its last.

    The syntax is that of Rust's ``regex`` crate: no look-around, no backreferences; ``\\d``
    and ``\\w`` are Unicode's, ``[0-9]`` is not.
    """
    _check_text("pattern", pattern)
    return Grammar(_tried("pattern", llguidance.LLMatcher.grammar_from_regex(pattern)))


def lark_grammar(text: str) -> Grammar:
    """A grammar in llguidance's variant of Lark's notation; the answer is what ``start`` derives.

    Refused are control tokens by name or number, embedded JSON schemas and grammars, and attributes that cut or hide
    text (``max_tokens``, ``stop``, ``temperature``).
    """
    _check_text("Lark grammar", text)
    bare = _LARK_TEXTS.sub(" ", text)
    if found := _LARK_REFUSED.search(bare):
        raise InputError(
            "the Lark grammar holds something that is not enforced here",
            found=found.group()[:100],
            expected="rules, terminals, strings, regexes, %ignore, %import common",
        )
    if (count := len(re.findall("[&~]", bare))) > MAX_LARK_OPERATORS:
        raise InputError(
            "the Lark grammar holds too many & and ~", found=count, expected=f"at most {MAX_LARK_OPERATORS}"
        )
    return Grammar(_tried("Lark grammar", llguidance.LLMatcher.grammar_from_lark(text)))


_LARK_TEXTS: Final = re.compile(
    r'(?:#|//)[^\n]*|"(?:\\(?:["\\/bfnrt]|u[a-fA-F0-9]{4})|[^"\\\x00-\x1f\x7f])*"i?|/(?:\\.|[^/\\])+/[imslux]*'
)
"""Comments, strings and regexes as llguidance's lexer takes them."""
_LARK_REFUSED: Final = re.compile(
    r'["<>@]|%(?!ignore\b|import\b)\w*|\b(?:max_tokens|stop|stop_capture|temperature)\b(?=\s*[=,\]])'
)
MAX_LARK_OPERATORS: Final = 8
"""Intersections and negations of terminals together; the time may double with each."""


def choice_grammar(choices: Sequence[str]) -> Grammar:
    """A grammar for exactly one of these texts, as it stands, without quotes.

    Raises ``InputError`` for no choices, more than ``MAX_CHOICES``, doubles, an empty text or more than 64 KiB in all.
    """
    if isinstance(choices, str | bytes) or not isinstance(choices, Sequence):
        raise InputError("choices are a list of texts", found=type(choices).__name__)
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise InputError(
            "the number of choices is out of range", found=len(choices), expected=f"1 to {MAX_CHOICES}"
        )
    if wrong := [choice for choice in choices if not isinstance(choice, str) or not choice]:
        raise InputError("a choice is a text that isn't empty", found=repr(wrong[0])[:100])
    if len(set(choices)) != len(choices):
        raise InputError("a choice stands twice in the list")
    _check_text("list of choices", "".join(choices))
    source = llguidance.LLMatcher.grammar_from_lark("start: " + " | ".join(map(_lark_string, choices)))
    return Grammar(_tried("list of choices", source), choices=tuple(choices))


def _lark_string(text: str) -> str:
    """A JSON string, which Lark strings are here; its lexer wants DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_text(what: str, text: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"the {what} is not text", found=type(text).__name__)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InputError(f"the {what} holds half of a surrogate pair, which is not Unicode") from error
    if size > MAX_BYTES:
        raise InputError(f"the {what} is too long", found=f"{size} bytes", expected=f"at most {MAX_BYTES}")


def limits() -> Any:
    """``LIMITS`` as llguidance takes them."""
    return llguidance.LLParserLimits(verbose_errors=False, **LIMITS)


def shielded(what: str, call: Callable[[], _T]) -> _T:
    """Run a call into llguidance; a panic of its, which is no ``Exception``, becomes an ``InputError``."""
    try:
        return call()
    except BaseException as error:
        if isinstance(error, ValueError) or type(error).__name__ == "PanicException":
            raise InputError(f"the {what} can't be enforced", found=str(error)[:200]) from error
        raise


def _tried(what: str, source: str) -> str:
    """``source``, once llguidance made a lexer and the first masks of it, without a warning."""
    matcher = shielded(
        what, lambda: llguidance.LLMatcher(_byte_tokens(), source, log_level=0, limits=limits())
    )
    messages = [matcher.get_error()] if matcher.is_error() else matcher.get_grammar_warnings()
    if not messages:
        messages = shielded(what, lambda: _probe(matcher))
    if messages:
        raise InputError(
            f"the {what} can't be enforced",
            found="; ".join(messages).replace("\n<non-verbose/>", "")[:500] or "refused without a reason",
            next_step="leave out or rephrase the part it names; simpler patterns, smaller limits, fewer alternatives",
        )
    return source


def _probe(matcher: Any) -> list[str]:
    """Take a few first steps; what went wrong."""
    for _ in range(_PROBED):
        mask = matcher.compute_bitmask()
        if matcher.is_error():
            return [matcher.get_error()]
        allowed = int.from_bytes(mask, "little")
        if not allowed:
            return ["nothing matches it"]
        token = (allowed & -allowed).bit_length() - 1
        if token == _EOS or not matcher.consume_token(token):
            return [matcher.get_error()] if matcher.is_error() else []
    return []


class _Bytes:
    """256 tokens of a byte each and an end: a grammar is the same over any vocabulary that can spell it."""

    eos_token_id, bos_token_id = _EOS, None
    tokens: Final = [*(bytes([byte]) for byte in range(256)), b"<eos>"]
    special_token_ids: Final = [_EOS]

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


@cache
def _byte_tokens() -> Any:
    return llguidance.LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=257, eos_token=[_EOS])


class GrammarCache:
    """Compiled schemas by their text, the most recently used ones; any number of threads may ask it."""

    def __init__(self, max_count: int = 64, max_bytes: int = 1 << 20) -> None:
        """Keep at most so many grammars, and so many bytes of schemas and grammars together."""
        self._max_count, self._max_bytes = max_count, max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, schema: Any) -> Grammar:
        """The grammar of a JSON schema; raises what ``compile_schema`` raises, and then keeps nothing."""
        text = _quickly(schema)
        with self._lock:
            if found := self._kept.get(text):
                self._kept.move_to_end(text)
                return found
        grammar = compile_schema(schema)
        with self._lock:
            if text not in self._kept:
                self.bytes += _size(grammar)
            self._kept[text] = grammar
            while self._kept and (len(self._kept) > self._max_count or self.bytes > self._max_bytes):
                self.bytes -= _size(self._kept.popitem(last=False)[1])
        return grammar


def _quickly(schema: Any) -> str:
    """The text that ``check_schema`` would give, if it would; one that is in the cache was checked."""
    try:
        return as_text(schema)
    except (TypeError, ValueError, RecursionError):
        return check_schema(schema)


def _size(grammar: Grammar) -> int:
    return len(grammar.source) + len(grammar.schema or "")
