"""``edgekit chat``: a conversation in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgekit.answer import AnswerOptions
    from edgekit.model import Model

Messages = list[dict[str, str]]


@click.command(epilog="Example: edgekit chat dist/restaurant-q4_k_m --system 'Answer briefly.'")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--system", metavar="TEXT", help="A system text, for models whose chat template takes one.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=1024, show_default=True)
@click.option(
    "--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest token."
)
@click.option("--seed", type=int, help="The same seed gives the same answers.")
@click.option("--ctx", "n_ctx", type=click.IntRange(min=1), help="Context in tokens.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0 takes the physical cores.")
@click.option("--verify", is_flag=True, help="Check the artifact's SHA-256 before it is loaded.")
def command(
    bundle: Path,
    system: str | None,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    n_ctx: int | None,
    threads: int,
    verify: bool,
) -> None:
    """Talk with BUNDLE (a folder, or a .gguf file); it remembers the conversation.

    /reset forgets it, /exit or Ctrl-D leaves, Ctrl-C stops an answer. Without a terminal, each line of standard
    input is a message and only the answers are printed.
    """
    from edgekit.errors import InputError
    from edgekit.model import load

    # A conversation reuses all of its cache: the next answer starts at once, at the price of exactness.
    with load(bundle, n_ctx=n_ctx, threads=threads, exact=False, verify=verify) as model:
        if model.chat_template is None:
            raise InputError("the model has no chat template", path=bundle, next_step="edgekit run --raw")
        start: Messages = [] if system is None else [{"role": "system", "content": system}]
        _converse(model, start, {"max_tokens": max_tokens, "temperature": temperature, "seed": seed})


def _converse(model: Model, start: Messages, options: AnswerOptions) -> None:
    """Read, answer, remember, until the input ends."""
    from edgekit.errors import InputError

    if sys.stdin.isatty():
        click.echo(f"{model.name}: /reset forgets, /exit or Ctrl-D leaves, Ctrl-C stops an answer", err=True)
    messages = list(start)
    while (line := _read()) is not None:
        if line == "/exit":
            return
        if line == "/reset":
            messages = list(start)
            continue
        if not line:
            continue
        asked = [*messages, {"role": "user", "content": line}]
        try:
            answer = _answer(model, asked, options)
        except InputError as error:
            # Most likely the conversation outgrew the context: it is still there, without this line.
            click.echo(click.style("error: ", fg="red") + f"{error}\n/reset starts anew", err=True)
            continue
        messages = [*asked, {"role": "assistant", "content": answer}]


def _read() -> str | None:
    """The next line, or None at the end; Ctrl-C at the prompt only clears it."""
    while True:
        try:
            if sys.stdin.isatty():
                return input("> ").strip()
            line = sys.stdin.readline()
            return line.strip() if line else None
        except KeyboardInterrupt:
            click.echo("\n(/exit or Ctrl-D leaves)", err=True)
        except EOFError:
            click.echo(err=True)
            return None


def _answer(model: Model, messages: Messages, options: AnswerOptions) -> str:
    """Print an answer as it comes; Ctrl-C keeps what was said so far."""
    said: list[str] = []
    stream = model.chat_stream(messages, **options)
    try:
        for piece in stream:
            said.append(piece)
            click.echo(piece, nl=False)
    except KeyboardInterrupt:
        click.echo(" [stopped]", nl=False, err=True)
    finally:
        stream.close()
    click.echo()
    return "".join(said)
