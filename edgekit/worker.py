"""Steps of a build that run in a process of their own: llama.cpp aborts where Python would raise.

A request comes as JSON on standard input, the answer goes to standard output: ``python -m edgekit.worker``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from edgekit.errors import EdgekitError, InputError
from edgekit.golden import Golden

TIMEOUT = 1800
"""Seconds that a step may take: a large model is read from a slow disk once."""


class Prove(msgspec.Struct, tag=True):
    """Tokenize texts with the artifact's vocabulary and with tokenizer.json."""

    artifact: str
    tokenizer: str
    texts: list[str]
    definition: str = ""
    """A tokenizer.json made from ``tokenizer``, where that is another kind of file."""


class Record(msgspec.Struct, tag=True):
    """Load the artifact and run the golden probes."""

    artifact: str
    threads: int
    prompt: str | None
    allow_nonfinite: bool = False


class Proved(msgspec.Struct, tag=True):
    """The first text whose ids differ, if any, and the ids that end an answer."""

    mismatch: tuple[str, list[int], list[int]] | None
    mismatches: int
    end_ids: list[int]


class Recorded(msgspec.Struct, tag=True):
    """The golden probes' answers."""

    golden: Golden


class Failed(msgspec.Struct, tag=True):
    """An error of edgekit's in the step."""

    message: str


def run(request: Prove | Record) -> Proved | Recorded:
    """Run one step in a child; a child that dies is an ``InputError`` with the end of what it said."""
    try:
        done = _step(request)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            "a step of the build took too long", path=request.artifact, found=str(error)
        ) from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise InputError(
            "the runtime can't load what was built from this checkpoint",
            path=request.artifact,
            found="; ".join(lines[-2:]) or f"the step ended with status {done.returncode}",
            expected="a sound model and tokenizer",
        )
    answer = msgspec.json.decode(done.stdout, type=Proved | Recorded | Failed)
    if isinstance(answer, Failed):
        raise InputError(answer.message)
    return answer


def _step(request: Prove | Record) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        # -P: a checkpoint's folder, where a build may run, must not be searched for modules.
        [sys.executable, "-P", "-m", "edgekit.worker"],
        input=msgspec.json.encode(request),
        capture_output=True,
        env=os.environ | {"GGML_NO_BACKTRACE": "1"},  # else an abort calls a debugger
        timeout=TIMEOUT,
        check=False,
    )


def _prove(request: Prove) -> Proved:
    from edgekit.runtimes.llamacpp import LlamaCppEngine

    first, count = None, 0
    expectations = _expected(request)
    engine = LlamaCppEngine(Path(request.artifact), vocab_only=True)
    try:
        for text, expected in zip(request.texts, expectations, strict=True):
            found = engine.tokenize(text, special=True)
            if found != expected:
                count += 1
                first = first or (text, expected, found)
        return Proved(first, count, sorted(engine.eos_ids))
    finally:
        engine.close()


def _expected(request: Prove) -> list[list[int]]:
    """The ids of every text by ``tokenizers``."""
    import tokenizers  # the package, not our room's module

    doing = "read it"
    try:
        if request.definition:
            ours = tokenizers.Tokenizer.from_str(request.definition)
        else:
            ours = tokenizers.Tokenizer.from_file(request.tokenizer)
        ours.no_padding()
        ours.no_truncation()
        doing = "run it"
        return [ours.encode(text, add_special_tokens=False).ids for text in request.texts]
    except BaseException as error:  # noqa: B036 - tokenizers raises bare Exception, or a panic that isn't even one
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise InputError(f"tokenizers can't {doing}", path=request.tokenizer, found=str(error)) from error


def _record(request: Record) -> Recorded:
    from edgekit import golden
    from edgekit.engines import plain

    engine = plain(Path(request.artifact), n_ctx=512, threads=request.threads)
    try:
        return Recorded(golden.record(engine, request.prompt, allow_nonfinite=request.allow_nonfinite))
    finally:
        engine.close()


def main() -> None:
    """Read a request, do it, write the answer."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Prove | Record)
    answer: Proved | Recorded | Failed
    try:
        answer = _prove(request) if isinstance(request, Prove) else _record(request)
    except EdgekitError as error:
        answer = Failed(str(error))
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
