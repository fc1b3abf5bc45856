"""How a long piece of work tells how it goes."""

from __future__ import annotations


class Progress:
    """Told how a build goes; the command line draws it, the default is silent."""

    def stage(self, name: str, total: int) -> None:
        """A stage begins: ``total`` weights (or steps) lie ahead."""

    def advance(self, what: str, amount: int) -> None:
        """``amount`` of them are done; ``what`` is the tensor or file."""

    def note(self, text: str) -> None:
        """Something that a person should know about what is built."""


class Once(Progress):
    """Passes on what it is told, each note only once."""

    def __init__(self, listener: Progress) -> None:
        self._listener = listener
        self._noted: set[str] = set()

    def stage(self, name: str, total: int) -> None:
        self._listener.stage(name, total)

    def advance(self, what: str, amount: int) -> None:
        self._listener.advance(what, amount)

    def note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._listener.note(text)
