"""What the tests of the examples share: an example as a module, a schema, and an engine that waits to be let go."""

from __future__ import annotations

import importlib.util
import sys
import threading
from typing import Any, Final

from tests.conftest import ROOT

SCHEMA: Final = {
    "type": "object",
    "properties": {"people": {"type": ["string", "null"], "maxLength": 20}},
    "required": ["people"],
    "additionalProperties": False,
}


def load_example(place: str) -> Any:
    """The module of an example, by its path under examples/."""
    path = ROOT / "examples" / place
    name = f"example_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Gate:
    """A script for the fake engine that doesn't answer before it is opened."""

    def __init__(self, answer: str) -> None:
        self._answer = answer
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, prompt: str) -> str:
        """Called by the scheduler's thread."""
        self.reached.set()
        self.open.wait()
        return self._answer
