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
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edgekit import errors, importance_data, probing
from edgekit.errors import EdgekitError, HardwareError, InputError
from edgekit.importance_data import Data
from edgekit.probing import Compare, Found, Weigh

if TYPE_CHECKING:
    from edgekit.runtimes.activations import Sums


EVERY: Final = 8
"""Of the calibration's sequences, one in so many is set apart to choose by."""


class Apart(msgspec.Struct, frozen=True):
    """Files for sequences to choose by, which aren't among the others then, and for some of the others to probe with; and
    the most tokens of each.
    """

    chosen_by: str
    probed: str
    most_chosen_by: int
    most_probed: int


class Cut(msgspec.Struct, tag=True, frozen=True):
    """Turn data into tokens with the vocabulary of ``artifact``, which may still lack its weights, and keep them in ``tokens``."""

    artifact: str
    data: Data
    chunk: int
    most: int | None
    tokens: str
    apart: Apart | None = None


class Collect(msgspec.Struct, tag=True, frozen=True):
    """Read ``tokens`` with the model in ``artifact`` and write its importance matrix to ``out``."""

    artifact: str
    tokens: str
    dataset: str
    chunk: int
    threads: int
    out: str
    correlations: str | None = None
    """A folder that columns' correlations go to, too."""


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


Request = Cut | Collect | Weigh | Compare
Answer = Counted | Written | Found
Said = Step | Answer | Failed


def run(request: Request, report: Callable[[int], None] | None = None) -> Answer:
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
    from edgekit.runtimes.llamacpp import LlamaCppEngine

    with closing(LlamaCppEngine(Path(request.artifact), vocab_only=True)) as engine:
        found = importance_data.sequences(request.data, engine, request.chunk, request.most)
        vocabulary = engine.n_vocab
    if request.apart:
        found = _parted(request, request.apart, found, vocabulary)
    data = _keep(found, request.tokens)
    return Counted(sum(map(len, found)), len(found), hashlib.sha256(data).hexdigest())


def _parted(request: Cut, apart: Apart, found: list[list[int]], vocabulary: int) -> list[list[int]]:
    """Set every eighth sequence apart, spread over the data; the last where there are fewer."""
    if len(found) < 2:
        raise InputError(
            "too little to calibrate on: a part is set aside to choose by",
            path=request.data.path,
            found=f"{len(found)} chunk of {request.chunk:,} tokens",
            expected="2 at least; a hundred are usual",
            next_step="add text or records",
        )
    held = set(range(EVERY - 1, len(found), EVERY)) or {len(found) - 1}
    chosen_by = [found[at] for at in sorted(held)]
    rest = [one for at, one in enumerate(found) if at not in held]
    _keep(probing.affordable(chosen_by, 1, apart.most_chosen_by), apart.chosen_by)
    _keep(probing.affordable(rest, vocabulary, apart.most_probed), apart.probed)
    return rest


def _keep(sequences: Sequence[Sequence[int]], path: str) -> bytes:
    """Every sequence after its length: what is hashed says where each begins."""
    import numpy as np

    data = b"".join(np.array([len(one), *one], "<i4").tobytes() for one in sequences)
    Path(path).write_bytes(data)
    return data


def _collect(request: Collect, say: Callable[[Said], None]) -> Written:
    from edgekit.converters.gguf import imatrix
    from edgekit.runtimes import activations, correlations

    data = Path(request.tokens).read_bytes()
    sequences, path = _sequences(data), Path(request.artifact)

    def report(count: int) -> None:
        say(Step(count))

    if request.correlations:
        folder = Path(request.correlations)
        found = correlations.collect(path, sequences, folder, threads=request.threads, report=report)
    else:
        found = activations.collect(path, sequences, threads=request.threads, report=report)
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
        if isinstance(request, Cut):
            say(_cut(request))
        elif isinstance(request, Collect):
            say(_collect(request, say))
        else:
            sequences = _sequences(Path(request.tokens).read_bytes())
            say(probing.answer(request, sequences, lambda count: say(Step(count))))
    except EdgekitError as error:
        say(Failed(type(error).__name__, str(error)))
    except MemoryError:
        say(Failed(HardwareError.__name__, f"{request.artifact}: no memory left to calibrate in"))


if __name__ == "__main__":
    main()
