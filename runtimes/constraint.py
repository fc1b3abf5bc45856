"""Output that must match a grammar: llguidance's masks over any engine's logits.

Fails closed: a schema that can't be enforced whole is an error before the first token, and a matcher that gets
into trouble raises; there is no path on which unconstrained tokens come out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import llguidance
import numpy as np
from llguidance import TokenizerWrapper
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.runtimes.engine import Engine, Logits
from edgekit.runtimes.grammars import Grammar, compile_schema, limits, shielded

__all__ = ["Grammar", "Matcher", "Vocabulary", "compile_schema"]

COPIES: Final = 32
"""Answers that share a lexer: making it costs each 10 µs, and its states stay few."""
KEPT: Final = 16
"""Grammars whose lexers are kept."""
BIAS: Final[NDArray[np.float32]] = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), 0, -np.inf
).astype(np.float32)
"""For each byte of a bit mask, what to add to eight logits."""


TEXTS: Final = 4096
"""Forced texts whose tokens are kept."""


class Vocabulary:
    """An engine's tokens as llguidance wants them; about a microsecond per token to make, so made once."""

    def __init__(self, engine: Engine) -> None:
        self.size, self.eos_ids = engine.n_vocab, engine.eos_ids
        tokens = _Tokens(engine)
        control = frozenset(tokens.special_token_ids)
        self._pieces = [b"" if at in control else piece for at, piece in enumerate(tokens.tokens)]
        self.shortest: dict[Grammar, int] = {}
        """What ``runtimes.shortest`` found; bounded by it."""
        self.tokenizer = llguidance.LLTokenizer(
            TokenizerWrapper(tokens), n_vocab=engine.n_vocab, eos_token=sorted(engine.eos_ids)
        )

        self._lock = threading.Lock()
        self._patterns: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at the start of an answer; any thread may ask for one."""
        return Matcher(self, grammar)

    def start(self, source: str) -> Any:
        """llguidance's matcher at its start: 0.3 ms to make and 0.4 µs to copy, so most are copies.

        Copies share their lexer and its budget of states, so one that is copied is renewed now and then.
        """
        with self._lock:
            pattern, left = self._patterns.pop(source, (None, 0))
            if pattern is None or not left:
                pattern, left = self._made(source), COPIES
            if not pattern.is_error():
                self._patterns[source] = pattern, left - 1
            if len(self._patterns) > KEPT:
                self._patterns.popitem(last=False)
            return pattern.deep_copy()

    def forget(self, source: str) -> None:
        """Make the next matcher anew: one of the copies gave up, maybe on what all of them used together."""
        with self._lock:
            self._patterns.pop(source, None)

    def _made(self, source: str) -> Any:
        return shielded(
            "output schema",
            lambda: llguidance.LLMatcher(self.tokenizer, source, log_level=0, limits=limits()),
        )

    def longest(self, alphabet: frozenset[int]) -> int:
        """The most bytes of ``alphabet`` that one token holds; at least 1."""
        counted = np.zeros(256, np.int64)
        counted[list(alphabet)] = 1
        ends = np.cumsum([len(piece) for piece in self._pieces])
        spelt = np.frombuffer(b"".join(self._pieces), np.uint8)
        sums = np.concatenate([[0], np.cumsum(counted[spelt])])
        return max(1, int(np.diff(sums[ends], prepend=0).max(initial=1)))


class _Tokens:
    """What ``TokenizerWrapper`` reads; its strings are never parsed for control tokens."""

    def __init__(self, engine: Engine) -> None:
        if not engine.eos_ids:
            raise InputError("the model has no token that ends an answer, so no schema can be enforced")
        self._engine = engine
        self._known: dict[bytes | str, list[int]] = {}
        self.eos_token_id = min(engine.eos_ids)
        self.bos_token_id = engine.specials.get(engine.bos_token)
        self.tokens = [engine.token_bytes(token) for token in range(engine.n_vocab)]
        for text, token in engine.specials.items():
            self.tokens[token] = text.encode()
        self.special_token_ids = sorted({*engine.specials.values(), *engine.eos_ids})

    def __call__(self, text: bytes | str) -> list[int]:
        """Asked at every token for the bytes that must come next, of which a schema has few."""
        known = self._known.get(text)
        if known is None:
            plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
            if len(self._known) >= TEXTS:
                self._known.clear()
            known = self._known[text] = self._engine.tokenize(plain, special=False)
        return known


class _Room:
    """Where one matcher's masks go, half a megabyte for 128k tokens: only for who asks row by row."""

    def __init__(self, size: int) -> None:
        self.bits = np.zeros((size + 31) // 32, np.uint32)
        self.address = self.bits.ctypes.data
        self.out = np.empty((self.bits.nbytes, 8), np.float32)
        self.masked: Logits = self.out.reshape(-1)[:size]


class Matcher:
    """Follows one answer and says which tokens may come next."""

    def __init__(self, vocabulary: Vocabulary, grammar: Grammar) -> None:
        self._vocabulary, self._source = vocabulary, grammar.source
        self.raw = vocabulary.start(grammar.source)
        """llguidance's own matcher, for ``MaskBatch``; whoever uses it calls ``check`` after."""
        self._room: _Room | None = None
        self.check()

    def mask(self, logits: Logits) -> Logits:
        """A copy of ``logits`` ``(n_vocab,)`` with forbidden tokens at minus infinity, valid until the next call."""
        if self._room is None:
            self._room = _Room(self._vocabulary.size)
        room = self._room
        self.raw.unsafe_compute_mask_ptr(room.address, room.bits.nbytes)
        self.check()
        if not room.bits.any():
            raise InputError("the output schema allows no token here")
        # A bit per token, lowest first; looking bytes up beats unpacking them.
        np.take(BIAS, room.bits.view(np.uint8), axis=0, out=room.out, mode="clip")
        return np.add(room.masked, logits, out=room.masked)

    def consume(self, tokens: Sequence[int]) -> None:
        """Advance over tokens that were chosen or forced; a token that the schema forbids is an error."""
        for token in tokens:
            if not self.raw.consume_token(token):
                self.check()
                raise InputError("the output schema forbids this token", found=token)

    def forced(self) -> list[int]:
        """Tokens that can only come next, in order; not yet consumed."""
        tokens: list[int] = self.raw.compute_ff_tokens()
        self.check()
        return tokens

    @property
    def accepting(self) -> bool:
        """Whether the answer could end here."""
        accepts: bool = self.raw.is_accepting()
        self.check()
        return accepts

    @property
    def complete(self) -> bool:
        """Whether the answer must end here."""
        stopped: bool = self.raw.is_stopped()
        self.check()
        return stopped

    def check(self) -> None:
        """Raise ``InputError`` where llguidance gave up."""
        if self.raw.is_error():
            self._vocabulary.forget(self._source)
            raise InputError(
                "the output schema could not be enforced any further",
                found=self.raw.get_error().replace("\n<non-verbose/>", ""),
                next_step="simplify the schema: shorter patterns, smaller length limits, fewer alternatives",
            )
