"""Bytes to text as they come: no half characters, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from edgekit.errors import InputError


class TextStream:
    """Turns the bytes of tokens into text that can be shown at once.

    Bytes that aren't UTF-8 become U+FFFD. A character split over tokens is held back until it is whole, and
    the end of a text only as long as it may still grow into a stop string.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
            raise InputError("stop strings are a list of texts, none of them empty", found=repr(stop))
        self._stop = tuple(stop)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""
        self.stopped = False
        """A stop string came; nothing after it is ever shown."""

    def feed(self, data: bytes) -> str:
        """The text that ``data`` completes; empty while something is held back."""
        text = self._decode(data)
        return text if not self._stop else self._filter(text)

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        rest = self._decode(b"", True)
        if not self._stop:
            return rest
        shown = self._filter(rest)
        if not self.stopped:
            shown += self._held
        self._held = ""
        return shown

    def _filter(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            # The one that is whole first, wherever the text was cut into tokens.
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        cut = len(text) - self._overlap(text)
        self._held = text[cut:]
        return text[:cut]

    def _overlap(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop string."""
        longest = min(len(text), max(map(len, self._stop)) - 1)
        for length in range(longest, 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stop):
                return length
        return 0
