"""The seam between a runtime's forward pass and everything above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Run:
    """Consecutive tokens to append to one sequence's KV cache.

    ``want`` holds the indices within ``tokens`` whose next-token logits are wanted.
    """

    seq: int
    tokens: Sequence[int]
    want: Sequence[int] = ()


class Engine(Protocol):
    """One loaded model. Not thread-safe: one caller at a time."""

    n_vocab: int
    n_ctx: int
    """Tokens that fit one sequence's KV cache."""
    n_seq_max: int
    n_kv: int
    """Tokens that fit the caches of all sequences together; a shared prefix counts once."""
    eos_ids: frozenset[int]
    """Every token that ends an answer (eos, eot, eom)."""
    specials: Mapping[str, int]
    """Control tokens by their text."""
    chat_template: str | None
    """Jinja source that the artifact carries."""
    bos_token: str
    eos_token: str
    add_bos: bool
    """Whether plain text (not a rendered chat) starts with bos."""

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids of ``text``, without bos; control tokens are recognised in it only if ``special``."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; empty for control tokens."""
        ...

    def decode(self, runs: Sequence[Run]) -> Logits:
        """Append each run and return logits ``(wanted, n_vocab)``, one row for each wanted position, in order.

        The rows are valid until the next call. Raises ``InputError`` when a sequence would outgrow ``n_ctx`` and
        ``HardwareError`` when all of them would outgrow ``n_kv``; every sequence is then as it was before.
        """
        ...

    def copy_prefix(self, src: int, dst: int, length: int) -> None:
        """Make the first ``length`` tokens of ``src`` those of ``dst`` too, sharing the cache."""
        ...

    def drop(self, seq: int, start: int = 0) -> None:
        """Forget a sequence from position ``start`` on."""
        ...

    def clear(self) -> None:
        """Forget all sequences: what follows finds the cache as it was at the beginning."""
        ...

    def close(self) -> None:
        """Free the model; further calls are errors."""
        ...
