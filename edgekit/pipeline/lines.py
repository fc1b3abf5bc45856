"""Lines of a file or a pipe, as bytes, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from edgekit.errors import InputError
from edgekit.pipeline.record import LIMIT

CHUNK: Final = 1 << 20
BOM: Final = b"\xef\xbb\xbf"
_WIDE: Final = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")


class Lines:
    """Reads by ``read(size)`` until it gives nothing; ``number`` and ``position`` are of the line given last."""

    def __init__(self, read: Callable[[int], bytes], name: str) -> None:
        self._read, self._name = read, name
        self.number = 0
        self.position = 0
        """Bytes up to the end of the line given last."""

    def __iter__(self) -> Iterator[bytes | None]:
        """Every line without its end (LF or CRLF) and without a byte order mark; None for one above ``LIMIT``."""
        rest, skipping = b"", False
        while chunk := self._chunk():
            first, *parts = chunk.split(b"\n")
            rest += first
            if parts:
                yield self._line(rest, skipping)
                skipping, rest = False, parts.pop()
                for part in parts:
                    yield self._line(part, False)
            if len(rest) > LIMIT:
                self.position += len(rest)
                skipping, rest = True, b""
        if rest or skipping:
            yield self._line(rest, skipping)

    def _line(self, line: bytes, skipping: bool) -> bytes | None:
        self.number += 1
        self.position += len(line) + 1
        if skipping or len(line) > LIMIT:
            return None
        if self.number == 1:
            line = self._begin(line)
        return line[:-1] if line.endswith(b"\r") else line

    def _begin(self, line: bytes) -> bytes:
        if line.startswith(_WIDE):
            raise InputError(
                "not UTF-8: it begins as UTF-16 or UTF-32 does",
                path=self._name,
                found=line[:4].hex(" "),
                expected="UTF-8 text",
                next_step=f"iconv -f UTF-16 -t UTF-8 {self._name} > utf8-copy",
            )
        return line.removeprefix(BOM)

    def _chunk(self) -> bytes:
        try:
            return self._read(CHUNK)
        except OSError as error:
            raise InputError(
                f"can't be read after line {self.number:,}",
                path=self._name,
                found=error.strerror,
                next_step="mend the disk or the cable, and run the same command again: it goes on",
            ) from error
