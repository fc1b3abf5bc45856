"""Calibrating in a process of its own, for llama.cpp aborts where Python would raise.

``python -m edgekit.importance_worker``: a request as JSON on standard input, lines of JSON on standard output.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit import errors, importance_data
from edgekit.errors import EdgekitError, HardwareError, InputError
from edgekit.importance_data import Data

if TYPE_CHECKING:
    from edgekit.runtimes.activations import Sums


class Cut(msgspec.Struct, tag=True, frozen=True):
    """Turn data into tokens with the vocabulary of ``artifact``, which may still lack its weights, and keep them in ``tokens``."""

    artifact: str
    data: Data
    chunk: int
    most: int | None
    tokens: str


class Collect(msgspec.Struct, tag=True, frozen=True):
    """Read ``tokens`` with the model in ``artifact`` and write its importance matrix to ``out``."""

    artifact: str
    tokens: str
    dataset: str
    chunk: int
    threads: int
    out: str


class Step(msgspec.Struct, tag=True, frozen=True):
    """Progress: so many tokens were just read."""

    tokens: int


class Counted(msgspec.Struct, tag=True, frozen=True):
    """The tokens, the sequences that they are read in, and the SHA-256 of their file."""

    tokens: int
    sequences: int
    sha256: str


class Written(msgspec.Struct, tag=True, frozen=True):
    """The matrix is there: the number of its weights, and the experts of each that nothing was sent to."""

    weights: int
    unseen: dict[str, int]


class Failed(msgspec.Struct, tag=True, frozen=True):
    """An error of edgekit's, by the name of its class."""

    kind: str
    message: str


Request = Cut | Collect
Said = Step | Counted | Written | Failed


def run(request: Request, report: Callable[[int], None] | None = None) -> Counted | Written:
    """Do a request in a child; ``report`` hears of tokens read. Raises what the child raised, by class and words."""
    command = [sys.executable, "-P", "-m", "edgekit.importance_worker"]
    env = os.environ | {"GGML_NO_BACKTRACE": "1"}  # else an abort calls a debugger
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as child:
        assert child.stdin and child.stdout and child.stderr
        try:
            with suppress(BrokenPipeError):  # it died already, as is said below
                child.stdin.write(msgspec.json.encode(request))
                child.stdin.close()
            for line in child.stdout:
                said: Said = msgspec.json.decode(line, type=Said)
                if isinstance(said, Failed):
                    raise getattr(errors, said.kind)(said.message)
                if not isinstance(said, Step):
                    return said
                if report:
                    report(said.tokens)
            words = child.stderr.read().decode("utf-8", "replace").strip().splitlines()
        except BaseException:
            child.kill()
            raise
    raise HardwareError(
        "the process that calibrates has died",
        path=request.artifact,
        found="; ".join(words[-2:]) or "nothing said; the system ends what takes too much memory",
        next_step="free memory, or calibrate with a smaller --chunk; if the model can't run at all, build it without",
    )


def _cut(request: Cut) -> Counted:
    import numpy as np

    from edgekit.runtimes.llamacpp import LlamaCppEngine

    with closing(LlamaCppEngine(Path(request.artifact), vocab_only=True)) as engine:
        found = importance_data.sequences(request.data, engine, request.chunk, request.most)
    # Every sequence after its length: what is hashed says where each begins.
    data = b"".join(np.array([len(one), *one], "<i4").tobytes() for one in found)
    Path(request.tokens).write_bytes(data)
    return Counted(sum(map(len, found)), len(found), hashlib.sha256(data).hexdigest())


def _collect(request: Collect, say: Callable[[Said], None]) -> Written:
    from edgekit.converters.gguf import imatrix
    from edgekit.runtimes.activations import collect

    data = Path(request.tokens).read_bytes()
    sequences = _sequences(data)
    found = collect(
        Path(request.artifact), sequences, threads=request.threads, report=lambda count: say(Step(count))
    )
    if not found:
        raise InputError("llama.cpp multiplies with none of the model's weights", path=request.artifact)
    tokens = imatrix.Tokens(sum(map(len, sequences)), hashlib.sha256(data).hexdigest())
    chunks = (max(1, tokens.count // request.chunk), request.chunk)
    sums = {name: (one.squares, one.counts) for name, one in found.items()}
    imatrix.write(Path(request.out), sums, request.dataset, chunks, tokens)
    imatrix.read(Path(request.out))  # what can't be read must not be there
    return Written(len(found), _unseen(found))


def _unseen(found: dict[str, Sums]) -> dict[str, int]:
    counted = {name: int((one.counts == 0).sum()) for name, one in found.items()}
    return {name: count for name, count in counted.items() if count}


def _sequences(data: bytes) -> Sequence[Sequence[int]]:
    import numpy as np

    numbers = np.frombuffer(data, "<i4")
    found: list[Any] = []
    at = 0
    while at < len(numbers):
        end = at + 1 + int(numbers[at])
        found.append(numbers[at + 1 : end].tolist())
        at = end
    return found


def main() -> None:
    """Read a request, do it, say how it goes."""

    def say(said: Said) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
        sys.stdout.buffer.flush()

    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    try:
        say(_cut(request) if isinstance(request, Cut) else _collect(request, say))
    except EdgekitError as error:
        say(Failed(type(error).__name__, str(error)))
    except MemoryError:
        say(Failed(HardwareError.__name__, f"{request.artifact}: no memory left to calibrate in"))


if __name__ == "__main__":
    main()
