"""One record of the input, and what can be wrong with it before a model is asked."""

from __future__ import annotations

from typing import Final

import msgspec

LIMIT: Final = 4 << 20
"""Bytes of one line, or characters of one CSV field, at most: what is longer is an error record."""


class Fault(msgspec.Struct, frozen=True):
    """Why a record has no data: a code for programs, a message for people."""

    code: str
    message: str


class Record(msgspec.Struct, frozen=True, gc=False):
    """``text`` is "" where there is a ``fault``; ``place`` says where it stands, such as notes.txt:12."""

    id: str
    text: str
    source: int
    """Which input it is from, counted from 0."""
    fault: Fault | None = None
    named: bool = False
    """Whether the id is the user's own; otherwise it was made from the input's name and the line."""

    def identity(self) -> bytes:
        """What the prefix digest covers; a text never holds a NUL."""
        if self.fault is None:
            return f"{self.id}\0{self.text}\0".encode()
        return f"{self.id}\0{self.fault.code}\0{self.fault.message}\0\0".encode()


EMPTY: Final = Fault("empty", "the text is empty")
NUL: Final = Fault("encoding", "the text holds a NUL byte, as binary data and UTF-16 do")
LONG: Final = Fault("too_long", f"the line is longer than {LIMIT:,} bytes")


def record_of(made: str, given: object, text: str, source: int) -> Record:
    """A record of a text, its faults found; ``given`` is the user's id, where there is a usable one."""
    name = usable_id(given)
    fault = None
    if not text or text.isspace():
        fault, text = EMPTY, ""
    elif "\0" in text:
        fault, text = NUL, ""
    return Record(name or made, text, source, fault, name is not None)


def usable_id(given: object) -> str | None:
    """An id as text: a string that isn't empty and holds no NUL, or an integer."""
    if isinstance(given, str):
        return given if given and "\0" not in given else None
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    return None


def bad_utf8(error: UnicodeDecodeError) -> Fault:
    """The first byte that is no UTF-8."""
    return Fault("encoding", f"not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}")
