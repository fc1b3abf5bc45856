"""A GGUF's vocabulary through llama.cpp: text to ids, ids to bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from edgekit.errors import InputError


class LlamaVocabulary:
    """The tokenizer of one loaded model; dead once the model is freed."""

    def __init__(self, lib: Any, model: int) -> None:
        self._lib = lib
        self._vocab = vocab = lib.llama_model_get_vocab(model)
        self.size: int = lib.llama_vocab_n_tokens(vocab)
        self._bytes: list[bytes | None] = [None] * self.size
        # The two kinds that llama_tokenize recognises in a text only when told to.
        control = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        attribute = lib.llama_vocab_get_attr
        controls = [token for token in range(self.size) if attribute(vocab, token) & control]
        self.specials: Mapping[str, int] = {self._text(token): token for token in controls}
        # llama.cpp marks every end token as a control token, except where the header itself names another.
        ends = {*controls, lib.llama_vocab_eos(vocab), lib.llama_vocab_eot(vocab)} - {-1}
        self.eos_ids = frozenset(token for token in ends if lib.llama_vocab_is_eog(vocab, token))
        self.bos_token = self._text(lib.llama_vocab_bos(vocab))
        self.eos_token = self._text(lib.llama_vocab_eos(vocab))
        self.add_bos: bool = lib.llama_vocab_get_add_bos(vocab)

    def _text(self, token: int) -> str:
        """A token as the vocabulary spells it; empty for -1, llama.cpp's "none"."""
        if token < 0:
            return ""
        text: bytes = self._lib.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "replace")

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Token ids, without bos; control tokens are recognised only if ``special``."""
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise InputError("the text holds half of a surrogate pair, which is not Unicode") from error
        room = len(data) + 8
        while True:
            ids = (ctypes.c_int32 * room)()
            count = self._lib.llama_tokenize(self._vocab, data, len(data), ids, room, False, special)
            if count >= 0:
                return ids[:count]
            if -count <= room or count == -(2**31):
                raise InputError("the text is too long to tokenize", found=f"{len(data)} bytes")
            room = -count

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; empty for control tokens."""
        known = self._bytes[token]
        if known is not None:
            return known
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count: int = self._lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
            if count >= 0:
                piece = self._bytes[token] = buffer.raw[:count]
                return piece
            room = -count
