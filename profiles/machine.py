"""The seam that probes ask through: this machine, a recording of one, or a recorder in between."""

from __future__ import annotations

import itertools
import os
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec

from edgekit.errors import InputError

T = TypeVar("T")

READ_LIMIT: Final = 1 << 20
"""Bytes of a file that a probe looks at: /proc/cpuinfo of 512 CPUs has about that many."""
_SERIAL: Final = re.compile(r"^Serial\s*:.*\n?", re.MULTILINE)


class Unavailable(Exception):
    """A probe's question has no answer here; the text says why."""


class Machine(Protocol):
    """What probes ask. Files and folders raise ``OSError``, questions raise ``Unavailable``."""

    system: str
    """Linux, Darwin or Windows."""
    arch: str
    """As platform.machine() says: x86_64, aarch64, arm64, AMD64."""

    def read(self, path: str) -> str:
        """A text file's beginning."""
        ...

    def names(self, folder: str) -> list[str]:
        """What lies in a folder, sorted."""
        ...

    def ask(self, question: str) -> Any:
        """What a library answers, as plain values; ``questions.py`` has all questions."""
        ...


class Live:
    """This machine."""

    def __init__(self, questions: Mapping[str, Callable[[str], Any]]) -> None:
        """``questions`` answers by the question's first word, given the rest."""
        self.system, self.arch = platform.system(), platform.machine()
        self._questions = questions

    def read(self, path: str) -> str:
        with Path(path).open("rb") as file:
            text = file.read(READ_LIMIT).decode("utf-8", "replace").rstrip("\0")
        return _SERIAL.sub("", text)  # a Raspberry Pi's own, which is nobody's business

    def names(self, folder: str) -> list[str]:
        return sorted(os.listdir(folder))

    def ask(self, question: str) -> Any:
        first, _, rest = question.partition(" ")
        if first not in self._questions:
            raise Unavailable("nothing here answers this")
        try:
            return self._questions[first](rest)
        except Unavailable:
            raise
        except Exception as error:  # a driver's library may raise anything; its text is the answer
            raise Unavailable(f"{type(error).__name__}: {error}") from error


class Recording(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a machine answered. ``by_hand``: nobody ran it there, the file was written from specifications."""

    name: str
    by_hand: bool
    system: str
    arch: str
    about: str = ""
    files: dict[str, str | list[str]] = {}
    """Text by path. ``cpu{0..3}`` in a path stands for four files; a list has a text for each."""
    folders: dict[str, list[str]] = {}
    answers: dict[str, Any] = {}
    """By question, or by its first word for all that begin so; ``{"unavailable": why}`` where there was none."""


class Recorded:
    """A machine that answers as its recording says."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.system, self.arch = recording.system, recording.arch
        self._files = dict(pair for path, text in recording.files.items() for pair in _spread(path, text))

    @classmethod
    def open(cls, path: Path) -> Recorded:
        """Read a recording; ``InputError`` names what is wrong with it."""
        from edgekit.files import MALFORMED, read_bounded

        try:
            return cls(msgspec.json.decode(read_bounded(path, limit=16 << 20), type=Recording))
        except MALFORMED as error:
            raise InputError(
                "not a recording of a machine",
                path=path,
                found=str(error),
                expected="what edgekit profile --record FILE writes",
            ) from error

    def read(self, path: str) -> str:
        if path not in self._files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self._files[path]

    def names(self, folder: str) -> list[str]:
        if folder in self.recording.folders:
            return self.recording.folders[folder]
        inside = {
            path[len(folder) + 1 :].split("/")[0] for path in self._files if path.startswith(folder + "/")
        }
        if not inside:
            raise FileNotFoundError(2, "No such file or directory", folder)
        return sorted(inside)

    def ask(self, question: str) -> Any:
        answers = self.recording.answers
        asked = question if question in answers else question.partition(" ")[0]
        if asked not in answers:
            raise Unavailable("not in the recording")
        answer = answers[asked]
        if isinstance(answer, dict) and set(answer) == {"unavailable"}:
            raise Unavailable(str(answer["unavailable"]))
        return answer


class Recorder:
    """Passes questions on, and keeps them with their answers."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine = machine
        self._name = name
        self.system, self.arch = machine.system, machine.arch
        self._files: dict[str, str | list[str]] = {}
        self._folders: dict[str, list[str]] = {}
        self._answers: dict[str, Any] = {}

    def read(self, path: str) -> str:
        text = self._machine.read(path)
        kept = text.splitlines(keepends=True)
        if path == "/proc/self/mountinfo":  # other mounts tell of their owner, not of the machine
            kept = [line for line in kept if " - cgroup" in line]
        self._files[path] = "".join(kept)
        return text

    def names(self, folder: str) -> list[str]:
        self._folders[folder] = found = self._machine.names(folder)
        return found

    def ask(self, question: str) -> Any:
        try:
            self._answers[question] = answer = self._machine.ask(question)
        except Unavailable as error:
            self._answers[question] = {"unavailable": str(error)}
            raise
        return answer

    def recording(self) -> Recording:
        """All of it."""
        return Recording(
            name=self._name,
            by_hand=False,
            system=self.system,
            arch=self.arch,
            files=dict(sorted(self._files.items())),
            folders=dict(sorted(self._folders.items())),
            answers=dict(sorted(self._answers.items())),
        )


def attempt(unknown: dict[str, str], field: str, probe: Callable[[], T]) -> T | None:
    """What a probe finds, or None and the reason under the field's name in ``unknown``."""
    try:
        return probe()
    except Unavailable as error:
        unknown[field] = str(error)
    except OSError as error:
        unknown[field] = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        unknown[field] = f"an answer that makes no sense ({type(error).__name__}: {error})"
    return None


def number(machine: Machine, path: str, unit: int = 1) -> int:
    """The one number that a file holds, times ``unit``."""
    text = machine.read(path).strip()
    try:
        return int(text) * unit
    except ValueError as error:
        raise Unavailable(f"{path} holds {text[:40]!r}, not a number") from error


def span(text: str) -> list[int]:
    """The kernel's lists of CPUs: ``0-3,8`` is 0, 1, 2, 3, 8."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        if not first.isdigit() or not (last or first).isdigit() or int(last or first) > 65_536:
            raise Unavailable(f"{text.strip()[:40]!r} is no list of CPUs")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def _spread(path: str, text: str | list[str]) -> list[tuple[str, str]]:
    """One (path, text) for every number that ``{0..3}`` in the path stands for."""
    pattern = re.search(r"\{(\d+)\.\.(\d+)\}", path)
    if pattern is None:
        return [(path, text if isinstance(text, str) else "".join(text))]
    numbers = range(int(pattern[1]), int(pattern[2]) + 1)
    texts = itertools.repeat(text) if isinstance(text, str) else iter(text)
    return [
        (path[: pattern.start()] + str(i) + path[pattern.end() :], one)
        for i, one in zip(numbers, texts, strict=False)
    ]
