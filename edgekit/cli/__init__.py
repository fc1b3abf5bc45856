"""The command line: one file per command, loaded when it is called."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import warnings

import click

from edgekit import __version__
from edgekit.errors import EdgekitError, GateError

COMMANDS = {
    "build": "Merge adapters into a base, quantize, and pack a bundle per quantization.",
    "merge": "Merge adapters into a base, and write a checkpoint that others load.",
    "init": "Write a commented edgekit.toml to build from.",
    "inspect": "Show what is inside a checkpoint, an adapter, a GGUF file or a bundle.",
    "verify": "Check a bundle's files, and replay its golden probes.",
    "run": "Answer one prompt from a bundle, as text or as JSON under a schema.",
    "extract": "Extract the fields of many records, from files into a file; resumes after any interruption.",
    "review": "Step through doubtful records, correct them, and keep the corrections as labelled data.",
    "chat": "Talk with a bundle in the terminal.",
    "export": "Write a bundle as Ollama, llama-server, LM Studio, onnxruntime-genai or vLLM take it.",
    "calibrate": "Compute the importance matrix of a merged model on your data, for better quantizations.",
    "calibrate-confidence": "Fit a bundle's confidence on labelled records, so that it means something.",
    "convert-adapter": "Write an adapter as a GGUF file, unmerged, for runtimes that swap adapters.",
    "profile": "Show this machine, and what would be picked to run a model on it, and why.",
    "targets": "List the devices that can be built for, or show one with the sources of its figures.",
    "plan": "Show what would be built for each target, with sizes, memory and speed, before a weight is read.",
    "matrix": "Print a project's builds as a CI system's matrix, with the keys of their caches.",
    "bench": "Measure a bundle's speed and memory here, beside what was predicted.",
    "eval": "Measure what quantization cost: perplexity, KL divergence, task F1, flips; and gate on it.",
    "report": "Set bundles beside each other on one page, or as a summary for CI.",
    "models": "List the models that are converted, and how each was checked.",
    "demo": "Build the restaurant example and measure base against merged.",
}


class LazyGroup(click.Group):
    """Knows every command's name and summary without importing any of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"edgekit.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: edgekit build BASE --adapter ADAPTER --quant Q4_K_M -o dist/",
)
@click.version_option(__version__, prog_name="edgekit")
def group() -> None:
    """Take a fine-tuned small language model onto real devices.

    A base checkpoint and its LoRA adapters become a verified, quantized bundle that runs here, offline.
    """


def _say(message: str) -> None:
    """One message in red; control characters of file names and contents are shown, not obeyed."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
    click.echo(click.style("error: ", fg="red", bold=True) + shown, err=True)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    """A warning as a person wants it: without the place in the code that it came from."""
    click.echo(click.style("warning: ", fg="yellow", bold=True) + str(message), err=True)


def main() -> None:
    """Run the command line; only edgekit's own errors become one red message and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that can't show a letter is no error
    warnings.showwarning = _warn
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a job that is cancelled cleans up as for Ctrl-C
    try:
        group.main(standalone_mode=False)
    except EdgekitError as error:
        _say(str(error))
        sys.exit(3 if isinstance(error, GateError) else 1)
    except OSError as error:
        if error.filename is None:
            raise  # not about a file of the user's: a bug
        _say(f"{os.fsdecode(error.filename)}: {error.strerror}")
        sys.exit(1)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("\ninterrupted", err=True)
        sys.exit(130)
