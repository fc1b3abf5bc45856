"""The options of ``edgekit build`` that say what bundles are measured on and must pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from edgekit.trial import REFERENCES

if TYPE_CHECKING:
    from edgekit.trial import Trial

F = TypeVar("F", bound=Callable[..., Any])
PATH: Final = click.Path(path_type=Path)
NAMES: Final = ("gates", "task", "text", "chunks", "ctx", "reference_type")
"""As the command gets them."""
_OPTIONS: Final = (
    click.option(
        "--gate", "gates", multiple=True, metavar="BAR",
        help="'f1 >= 0.85', 'size <= 2GB': a bundle that fails it isn't published; repeatable.",
    ),
    click.option("--task", type=PATH, metavar="FILE", help="Labelled JSONL to measure F1 and flips on, as edgekit eval."),
    click.option("--text", type=PATH, metavar="FILE", help="Plain text to measure perplexity and KL divergence on."),
    click.option(
        "--chunks", type=click.IntRange(1), metavar="N", help="At most so many chunks of the text; by default all."
    ),
    click.option(
        "--ctx", type=click.IntRange(8, 1 << 20), metavar="N",
        help="Tokens of a chunk.  [default: 512, or the model's context]",
    ),
    click.option(
        "--reference-type", type=click.Choice(REFERENCES),
        help="What the unquantized model is written in, to refer to.  [default: F16]",
    ),
)  # fmt: skip


def options(command: F) -> F:
    """Decorate a command with them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def trial(given: dict[str, Any], known: Trial) -> Trial:
    """What the options say on top of what a project file says: further gates, and other data in place of its own."""
    named = {name: given[name] for name in NAMES if given[name] not in (None, ())}
    if "gates" in named:
        named["gates"] = (*known.gates, *named["gates"])
    return replace(known, **named)
