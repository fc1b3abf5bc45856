"""The models at work: a text's tokens, chunks read side by side, answers to records, speed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from edgekit.errors import InputError
from edgekit.evaluation.figures import Answer
from edgekit.evaluation.subjects import Subject
from edgekit.evaluation.text import TextFigures, measure, tokens_of
from edgekit.evaluation.unsound import first_unsound, not_finite
from edgekit.progress import Progress

if TYPE_CHECKING:
    from edgekit.runtimes.engine import Engine


@dataclass(frozen=True)
class Tokens:
    """A text as a model reads it, and a digest of the model's whole vocabulary."""

    ids: list[int]
    bos: int | None
    n_vocab: int
    vocabulary: str


def tokenize(subject: Subject, text: str) -> Tokens:
    """The text's tokens; no weights are loaded."""
    from edgekit.engines import plain

    engine = plain(subject.artifact, vocab_only=True)
    try:
        ids, bos = tokens_of(engine, text)
        digest = hashlib.sha256(repr((engine.n_vocab, sorted(engine.specials.items()), bos)).encode())
        for token in range(engine.n_vocab):
            word = engine.token_bytes(token)
            digest.update(len(word).to_bytes(4, "little") + word)
        return Tokens(ids, bos, engine.n_vocab, digest.hexdigest())
    finally:
        engine.close()


def check_vocabulary(subject: Subject, tokens: Tokens, reference: Path, theirs: Tokens) -> None:
    """``InputError`` unless both read the text as the same tokens of the same vocabulary."""
    if tokens == theirs:
        return
    found, expected = (f"{one.n_vocab:,} tokens, {len(one.ids):,} in the text" for one in (theirs, tokens))
    raise InputError(
        "the reference has another tokenizer, so there is nothing to compare token by token",
        path=reference,
        found=found if found != expected else f"{found}, but others",
        expected=f"{expected}, as {subject.label}",
        next_step="name the model that the bundle was built from, with its adapters",
    )


def machine() -> str:
    """What the last bits of logits depend on, beside the model: this machine and its llama.cpp."""
    from edgekit.here import hardware
    from edgekit.results import machine_key

    return machine_key(hardware())


@contextmanager
def _transformers(subject: Subject, threads: int) -> Iterator[Engine]:
    """A checkpoint, its adapters merged by edgekit, in transformers."""
    from edgekit.opening import opened
    from edgekit.runtimes.transformers_reader import TransformersReader

    assert subject.source is not None
    with opened(subject.source, Progress()) as inputs:
        merged = inputs.merged
        weights = ((name, merged.read(name)) for name in merged.names())
        reader = TransformersReader(merged.config, weights, subject.path, threads)
    try:
        yield cast("Engine", reader)
    finally:
        reader.close()


@contextmanager
def _reader(subject: Subject, chunk: int, threads: int) -> Iterator[Engine]:
    """The model, opened to read chunks of so many tokens."""
    if subject.source is not None:
        with _transformers(subject, threads) as reader:
            yield reader
        return
    from edgekit.choosing import open_engine
    from edgekit.engines import plain
    from edgekit.forms import is_gguf
    from edgekit.runtimes.chunks import ROWS
    from edgekit.runtimes.llamacpp import LlamaCppOptions

    engine: Engine
    if not is_gguf(subject.artifact):
        engine = plain(subject.artifact, n_ctx=chunk, threads=threads)
    else:
        options = LlamaCppOptions(n_ctx=chunk, n_outputs=ROWS, threads=threads)
        engine, _, _ = open_engine(subject.artifact, nullcontext(subject.artifact), options)
    try:
        yield engine
    finally:
        engine.close()


def read(
    subjects: Sequence[Subject], chunks: Sequence[Sequence[int]], threads: int, progress: Progress
) -> list[TextFigures]:
    """Let the models read the chunks side by side; all but the first are held against it."""
    label = " + ".join(one.label for one in subjects)
    progress.stage(f"reading {len(chunks):,} chunks, {label}", len(chunks))
    with ExitStack() as stack:
        engines = [
            (str(one.artifact), stack.enter_context(_reader(one, len(chunks[0]), threads)))
            for one in subjects
        ]
        return measure(engines, chunks, lambda number: progress.advance(f"chunk {number + 1}", 1))


def together(reference: Subject, subjects: Sequence[Subject]) -> Iterator[list[Subject]]:
    """Parts of ``subjects`` that fit the memory beside the reference at once: it then reads the text once for all."""
    import psutil

    from edgekit.here import hardware

    free, limit = psutil.virtual_memory().available, hardware().memory.limit
    room = 0.7 * (min(free, limit) if limit else free)  # caches, buffers and other programs have the rest
    group: list[Subject] = []
    for one in subjects:
        # Weights that are rearranged for the processor stand in memory once more.
        if group and 2 * sum(subject.size for subject in (reference, *group, one)) > room:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


@dataclass(frozen=True)
class Question:
    """What every record is asked with."""

    prompt: str
    system: str | None
    schema: Mapping[str, Any]


def answer(
    subject: Subject, question: Question, texts: Sequence[str], threads: int, progress: Progress
) -> list[Answer]:
    """The model's greedy answers under the schema, in the order of the texts.

    Raises ``BundleError`` that names the tensor where a weight is not finite.
    """
    from edgekit.model import load

    progress.stage(f"answering {len(texts):,} records, {subject.label}", len(texts))
    found: list[Answer] = []
    looked = False
    with load(subject.artifact, threads=threads) as model:
        model.system = question.system
        for one in model.extract_many(texts, dict(question.schema), question.prompt):
            code = one.failure.code if one.failure else None
            if code == "invalid" and not looked:
                _require_sound(subject, len(found) + 1)
                looked = True
            data = one.data if isinstance(one.data, dict) else None
            found.append(Answer(data, "no object" if code is None and data is None else code))
            progress.advance(subject.label, 1)
    return found


def _require_sound(subject: Subject, record: int) -> None:
    """Under a schema no answer is unsound but a broken model's, or where the schema can't be followed: see which."""
    if first_unsound(subject.artifact):
        raise not_finite(subject.artifact, f"no sound answer to record {record}")


class Speed(msgspec.Struct, frozen=True):
    """Tokens a second and peak bytes of memory, in a process that does nothing else."""

    prompt_tps: float
    decode_tps: float
    memory: int | None
    threads: int
    busy: float
    """Share of all CPUs that other programs used just before."""


def speed(subject: Subject, threads: int, progress: Progress) -> Speed:
    """A short ``edgekit bench`` of a prompt of 512 tokens and an answer of 128."""
    from edgekit.bench import Plan, bench

    report = bench(Plan(subject.artifact, threads=(threads,) if threads else (), repetitions=3), progress)
    row = report.rows[0]
    return Speed(row.prompt.median, row.decode.median, row.peak_rss, row.threads, report.busy)
