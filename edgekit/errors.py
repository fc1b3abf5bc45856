"""Every error that edgekit raises on purpose; each class says who can act.

    EdgekitError
    ├── InputError               your files or arguments: a checkpoint, a schema, a full disk
    │   └── AdapterError         your adapter, or its fit with the base
    ├── UnsupportedModelError    a model that edgekit can't convert yet
    ├── BundleError              a bundle that is damaged, incomplete or not a bundle
    ├── GateError                the artifact did not pass your bar
    ├── RuntimeUnavailableError  a package or backend to install
    └── HardwareError            this machine can't do it

Anything else that escapes is a bug.
"""

from __future__ import annotations

import os


class EdgekitError(Exception):
    """An error with its parts: what happened, in which file, found against expected, and the next step."""

    def __init__(
        self,
        what: str,
        *,
        path: str | os.PathLike[str] | None = None,
        found: object = None,
        expected: object = None,
        next_step: str | None = None,
    ) -> None:
        self.what = what
        self.path = None if path is None else os.fspath(path)
        self.found = None if found is None else str(found)
        self.expected = None if expected is None else str(expected)
        self.next_step = next_step
        super().__init__(what)

    def __str__(self) -> str:
        head = f"{self.path}: {self.what}" if self.path else self.what
        parts = (("found", self.found), ("expected", self.expected), ("next", self.next_step))
        return "\n".join([head, *(f"  {label}: {text}" for label, text in parts if text)])


class InputError(EdgekitError):
    """A file or argument of yours can't be used."""


class AdapterError(InputError):
    """The adapter can't be merged, or doesn't fit the base."""


class UnsupportedModelError(EdgekitError):
    """The model is sound, but edgekit doesn't convert its kind."""


class BundleError(EdgekitError):
    """The bundle is damaged, incomplete, or not a bundle."""


class GateError(EdgekitError):
    """The artifact did not pass the bar that was set."""


class RuntimeUnavailableError(EdgekitError):
    """A package or a backend is missing; the message says which one to install."""


class HardwareError(EdgekitError):
    """This machine can't do what was asked."""
