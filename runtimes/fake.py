"""An engine with a script instead of a model: for testing applications without weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from edgekit.errors import HardwareError, InputError
from edgekit.runtimes.cells import Cells
from edgekit.runtimes.engine import Logits, Run

Script = str | Mapping[str, str] | Callable[[str], str]

_SPECIALS: Final = ("<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_BOS, _EOS, _SYSTEM, _USER, _ASSISTANT, _END = range(256, 256 + len(_SPECIALS))
_TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_FALLBACK: Final = b'"}],:0123456789truefalsn-. '
"""Preferred, in this order, when a constraint forbids what the script says: these close what is open."""


class FakeEngine:
    """Answers by a script: one text, a mapping from prompt to answer, or a function of the prompt.

    The prompt is the text of the last user turn, or all of the text where no chat template was applied.
    Tokens are bytes, so answers stream a byte at a time; ``decoded`` counts the tokens that were computed,
    ``calls`` the calls.
    """

    def __init__(
        self,
        answer: Script,
        *,
        n_ctx: int = 4096,
        n_seq_max: int = 1,
        n_kv: int | None = None,
        chat_template: str | None = _TEMPLATE,
    ) -> None:
        self._answer = answer
        self.n_ctx, self.n_seq_max = n_ctx, n_seq_max
        self.n_kv = n_ctx * n_seq_max if n_kv is None else n_kv
        self.n_vocab = 256 + len(_SPECIALS)
        self.specials: Mapping[str, int] = {text: 256 + at for at, text in enumerate(_SPECIALS)}
        self.eos_ids = frozenset({_EOS, _END})
        self.chat_template = chat_template
        self.bos_token, self.eos_token, self.add_bos = _SPECIALS[0], _SPECIALS[1], True
        self.decoded = self.calls = 0
        self._tokens: list[list[int]] = [[] for _ in range(n_seq_max)]
        self._cells = Cells(n_seq_max)
        self._prompt_end: list[int | None] = [None] * n_seq_max
        # Every token has a logit of its own, so a forced choice is the same each time.
        self._base: Logits = -10 - np.arange(self.n_vocab, dtype=np.float32) / np.float32(self.n_vocab)
        for rank, byte in enumerate(_FALLBACK):
            self._base[byte] = max(float(self._base[byte]), -5.0 - 0.1 * rank)
        self._closed = False

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """UTF-8 bytes; a control token's text is its id only if ``special``."""
        self._check(0)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError("the text holds half of a surrogate pair, which is not Unicode") from None
        if not special or "<|" not in text:
            return list(text.encode())
        ids: list[int] = []
        while text:
            found = [(text.find(name), name) for name in _SPECIALS if name in text]
            at, name = min(found, default=(len(text), ""))
            ids += text[:at].encode()
            if name:
                ids.append(self.specials[name])
            text = text[at + len(name) :]
        return ids

    def token_bytes(self, token: int) -> bytes:
        """The byte; nothing for control tokens."""
        return bytes([token]) if token < 256 else b""

    def decode(self, runs: Sequence[Run]) -> Logits:
        """Append each run; logits ``(wanted, n_vocab)`` that favour what the script says at each wanted position."""
        rooms = {run.seq: 0 for run in runs}
        for run in runs:
            self._check(run.seq)
            rooms[run.seq] += len(run.tokens)
        for seq, count in rooms.items():
            if len(self._tokens[seq]) + count > self.n_ctx:
                found = f"{len(self._tokens[seq])} tokens there and {count} more"
                raise InputError("the sequence would outgrow the context", found=found, expected=self.n_ctx)
        if self._cells.used + sum(rooms.values()) > self.n_kv:
            raise HardwareError("the KV cache is full", expected=f"at most {self.n_kv} tokens")
        ends, prompt_ends = {seq: len(self._tokens[seq]) for seq in rooms}, self._prompt_end.copy()
        try:
            logits = self._append(runs)
        except BaseException:  # the script's: all is as it was before
            for seq, end in ends.items():
                del self._tokens[seq][end:]
                self._cells.truncate(seq, end)
            self._prompt_end = prompt_ends
            raise
        self.calls += 1
        self.decoded += sum(rooms.values())
        return logits

    def _append(self, runs: Sequence[Run]) -> Logits:
        results: list[Logits] = []
        begun: set[int] = set()
        for run in runs:
            before = len(self._tokens[run.seq])
            self._tokens[run.seq] += run.tokens
            self._cells.append(run.seq, len(run.tokens))
            if run.want and self._prompt_end[run.seq] is None:
                # A run of its own after the prompt, in one call with it, is the answer's forced beginning.
                self._prompt_end[run.seq] = before if run.seq in begun else before + run.want[0] + 1
            begun.add(run.seq)
            results += [self._logits(run.seq, before + index + 1) for index in run.want]
        return np.stack(results) if results else np.empty((0, self.n_vocab), np.float32)

    def _logits(self, seq: int, end: int) -> Logits:
        """Logits after the first ``end`` tokens; the first that are wanted since a drop end the prompt."""
        prompt_end = self._prompt_end[seq] or 0
        answer = self._script(self._tokens[seq][:prompt_end]).encode()
        said = end - prompt_end
        logits: Logits = self._base.copy()
        logits[answer[said] if said < len(answer) else _EOS] = 10.0
        return logits

    def _script(self, prompt: Sequence[int]) -> str:
        turns = [at for at, token in enumerate(prompt) if token == _USER]
        start = turns[-1] + 1 if turns else 0
        stop = next((at for at in range(start, len(prompt)) if prompt[at] == _END), len(prompt))
        text = bytes(token for token in prompt[start:stop] if token < 256).decode("utf-8", "replace")
        if callable(self._answer):
            return self._answer(text)
        if isinstance(self._answer, str):
            return self._answer
        if text not in self._answer:
            raise InputError("the fake engine has no answer to this", found=text, expected=list(self._answer))
        return self._answer[text]

    def copy_prefix(self, src: int, dst: int, length: int) -> None:
        """Make the first ``length`` tokens of ``src`` those of ``dst`` too."""
        self._check(src)
        self._check(dst)
        if not 0 <= length <= len(self._tokens[src]):
            raise InputError("no such prefix", found=length, expected=f"0 to {len(self._tokens[src])}")
        self._cells.copy(src, dst, length)
        self._tokens[dst] = self._tokens[src][:length]
        self._prompt_end[dst] = None

    def drop(self, seq: int, start: int = 0) -> None:
        """Forget a sequence from position ``start`` on; what is decoded next is prompt again."""
        self._check(seq)
        del self._tokens[seq][max(0, start) :]
        self._cells.truncate(seq, len(self._tokens[seq]))
        self._prompt_end[seq] = None

    def clear(self) -> None:
        """Forget all sequences."""
        for seq in range(self.n_seq_max):
            self.drop(seq)

    def close(self) -> None:
        """Further calls are errors, as with a real engine."""
        self._closed = True

    def _check(self, seq: int) -> None:
        if self._closed:
            raise InputError("the model is closed")
        if not 0 <= seq < self.n_seq_max:
            raise InputError("no such sequence", found=seq, expected=f"0 to {self.n_seq_max - 1}")
