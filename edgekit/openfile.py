"""A file that stays open and is read by position, from any thread."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from edgekit.errors import InputError
from edgekit.files import require_file


class OpenFile:
    """Opened for reading; ``InputError`` names the file wherever that fails."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = require_file(path, what)
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError("can't be opened", path=path, found=error.strerror) from error
        self._closed = threading.Event()

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill ``out`` (bytes) from ``offset``; a file that shrank since it was opened is an ``InputError``."""
        done = 0
        while done < len(out):
            try:
                count = os.preadv(self._descriptor, [out[done:]], offset + done)
            except OSError as error:
                raise InputError("can't be read", path=self.path, found=error.strerror) from error
            if count == 0:
                raise InputError("the file became shorter while it was read", path=self.path)
            done += count

    def prefetch(self, offset: int, nbytes: int) -> None:
        """Ask the system to read ahead, where it can."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, offset, nbytes, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if not self._closed.is_set():
            self._closed.set()
            os.close(self._descriptor)
