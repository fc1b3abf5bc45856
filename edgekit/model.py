"""What an application embeds: load a bundle, then generate, stream, chat, extract or classify, from any threads."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack

from edgekit.aio import AsyncFace
from edgekit.answer import AnswerOptions, Classification, Extraction, Options
from edgekit.arguments import check, check_text
from edgekit.errors import InputError
from edgekit.prompts import Prompts

if TYPE_CHECKING:
    from edgekit.confidence_map import ConfidenceMap
    from edgekit.intended import Intended
    from edgekit.profiles.choice import RuntimeChoice
    from edgekit.runtimes.engine import Engine
    from edgekit.runtimes.request import Finish, Request
    from edgekit.runtimes.scheduler import Scheduler

__all__ = ["Classification", "Extraction", "Model", "load"]

EPOCH: Final = 256


def load(
    path: str | os.PathLike[str],
    *,
    n_ctx: int | None = None,
    n_parallel: int = 8,
    n_kv: int | None = None,
    kv_type: Literal["f16", "q8_0", "f32"] = "f16",
    threads: int = 0,
    batch_threads: int = 0,
    n_gpu_layers: int | None = None,
    exact: bool = False,
    verify: bool = False,
) -> Model:
    """Open a bundle's folder, a .gguf file or an .onnx graph; unset options fit themselves to model and machine.

    ``n_parallel`` answers can be in the making at once; they share a KV cache of ``n_kv`` tokens, by default
    ``n_ctx``, or 256 for each where that is more. ``kv_type``: how it is kept; q8_0 takes half the memory. ``exact``:
    see ``Model``. ``verify`` checks the artifact's SHA-256 on the same open file that is then loaded.

    Raises ``BundleError`` or ``InputError`` for what can't be loaded, ``HardwareError`` where memory is short and
    ``RuntimeUnavailableError`` where its runtime is missing.
    """
    from edgekit.engines import Wishes, picked

    check("path", path, (str, os.PathLike), "a path")
    artifact, meant, about = _about(Path(path), verify)
    wishes = Wishes(
        n_ctx=n_ctx,
        n_parallel=1 if exact else n_parallel,
        n_kv=n_kv,
        kv_type=kv_type,
        threads=threads,
        batch_threads=batch_threads,
        n_gpu_layers=n_gpu_layers,
    )
    engine, team, choice = picked(Path(path), artifact, wishes, meant)
    model = Model(engine, exact=exact, team=None if exact else team, **about)
    model.choice = choice
    return model


def _about(path: Path, verify: bool) -> tuple[AbstractContextManager[Path], Intended | None, dict[str, Any]]:
    """The artifact to open, its target, and what is known of it: all that a bundle brings, or a bare file's name."""
    if not path.is_dir():
        if verify:
            raise InputError("only a bundle carries digests to verify", path=path)
        return nullcontext(path), None, {"name": path.stem}
    from edgekit.bundle import Bundle
    from edgekit.confidence_map import load_confidence

    bundle = Bundle.open(path)
    manifest = bundle.manifest
    about = {
        "name": manifest.name,
        "prompt": manifest.prompt,
        "system": manifest.system,
        "schema": manifest.output_schema,
        "confidence": load_confidence(bundle),
    }
    return bundle.verified() if verify else nullcontext(bundle.artifact), manifest.target, about


class Model(AsyncFace, Prompts):
    """A loaded model. Safe to share between threads: their answers are made together."""

    def __init__(
        self,
        engine: Engine,
        *,
        prompt: str | None = None,
        system: str | None = None,
        schema: Any = None,
        name: str = "model",
        parallel: int | None = None,
        exact: bool = False,
        confidence: ConfidenceMap | None = None,
        team: Callable[[], Sequence[Engine]] | None = None,
    ) -> None:
        """Wrap an engine; ``prompt`` and ``schema`` are what ``extract`` uses unless told otherwise.

        At most ``parallel`` answers are made at once, as many as the engine has sequences if unset. ``exact``: one
        at a time, and nothing of earlier ones reused but what can't change a bit, so that an answer depends on its
        own prompt alone. ``confidence`` was fitted to labelled data. ``team`` opens engines over the same weights
        among which ``extract_many`` deals its texts.
        """
        from edgekit.runtimes.grammars import GrammarCache
        from edgekit.runtimes.scheduler import Scheduler

        check_text("prompt", prompt)
        check_text("system", system)
        self.name = name
        self.prompt, self.system, self.schema = prompt, system, schema
        self.confidence = confidence
        self.choice: RuntimeChoice | None = None
        """The settings that ``load`` opened it with, and why."""
        self.epoch = EPOCH
        """Records of ``extract_many`` that are a world of their own: what comes before can't change their answers."""
        self._engine = engine
        self._scheduler = Scheduler(engine, parallel=parallel, exact=exact)
        self._open_team = team
        self._team: list[Scheduler] = []
        # Also where nobody closes it, and before the interpreter ends under a thread in mid-step.
        self._free = weakref.finalize(self, _close, self._team, self._scheduler)
        self._grammars = GrammarCache()
        self._using = threading.RLock()

    @property
    def chat_template(self) -> str | None:
        """Jinja source of the model's chat template; without one it can only continue texts."""
        return self._engine.chat_template

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; answers that are still being made end with an error."""
        with self._using:
            _close(self._team, self._scheduler)
            self._free.detach()

    def schedulers(self) -> list[Scheduler]:
        """Those among which ``extract_many`` deals its texts; opened when they are first needed."""
        from edgekit.runtimes.scheduler import Scheduler

        with self._using:
            self._scheduler.check_open()
            if self._open_team is not None and not self._team:
                self._team += [Scheduler(engine) for engine in self._open_team()]
            return self._team or [self._scheduler]

    @property
    def batching(self) -> str:
        """What decides, beside the texts, which records of ``extract_many`` are computed together, in words."""
        schedulers = self.schedulers()
        return (
            f"epochs of {self.epoch} records, {len(schedulers)} x {schedulers[0].parallel} at once, "
            f"context {schedulers[0].engine.n_ctx}, cache {schedulers[0].engine.n_kv}"
        )

    def generate(
        self, prompt: str, *, system: str | None = None, raw: bool = False, **options: Unpack[Options]
    ) -> str:
        """The answer to one prompt, as the user's turn of the chat template where the model has one.

        ``raw`` continues the text as it stands. With ``schema``, ``regex``, ``lark`` or ``choices`` the answer matches
        it, unless ``max_tokens`` or the context cut it off.
        """
        return "".join(self.stream(prompt, system=system, raw=raw, **options))

    def stream(
        self, prompt: str, *, system: str | None = None, raw: bool = False, **options: Unpack[Options]
    ) -> Generator[str]:
        """The same piece by piece, never a part of a character; closing it ends the answer."""
        return _texts(self.pieces(prompt, system=system, raw=raw, **options))

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Unpack[Options]) -> str:
        """The next turn of a conversation of ``{"role", "content"}`` messages."""
        return "".join(self.chat_stream(messages, **options))

    def chat_stream(
        self, messages: Sequence[Mapping[str, Any]], **options: Unpack[Options]
    ) -> Generator[str]:
        """The same piece by piece."""
        return _texts(self.chat_pieces(messages, **options))

    def pieces(
        self, prompt: str, *, system: str | None = None, raw: bool = False, **options: Unpack[Options]
    ) -> Generator[str | Finish]:
        """As ``stream``, and at the end a ``Finish`` with the reason, the counts and the times."""
        return self._answer(self.messages(prompt, system=system, raw=raw), self.request(options))

    def chat_pieces(
        self, messages: Sequence[Mapping[str, Any]], **options: Unpack[Options]
    ) -> Generator[str | Finish]:
        """As ``chat_stream``, and at the end a ``Finish``; the bundle's system text goes first where none does."""
        return self._answer(self.conversation(messages), self.request(options))

    def extract(
        self,
        text: str,
        schema: Any = None,
        prompt: str | None = None,
        *,
        min_confidence: float | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Extraction:
        """The fields of ``text`` as the schema has them; the bundle's schema and prompt where none are given.

        The schema is a JSON Schema, or the class of a pydantic model, a dataclass or a TypedDict. The prompt holds
        ``{text}``, which is replaced once and literally. A text that nothing can be extracted from gives a
        ``failure``; below ``min_confidence`` the result says ``needs_review``.
        """
        from edgekit.extraction import Extractor

        return Extractor(self, schema, prompt, min_confidence, options).one(text)

    def extract_many(
        self,
        texts: Iterable[str],
        schema: Any = None,
        prompt: str | None = None,
        *,
        min_confidence: float | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Generator[Extraction]:
        """The fields of many texts, in their order, from any iterator, in bounded memory, several at once.

        Counted from the first text, every ``epoch`` of them is answered as if by a model just loaded, unless other
        calls run at the same time: the same texts give the same answers to the bit, also from an epoch's start on.
        """
        from edgekit.extraction import Extractor

        return Extractor(self, schema, prompt, min_confidence, options).many(texts)

    def classify(
        self, text: str, labels: Sequence[str], prompt: str | None = None, *, answer: str = "{label}"
    ) -> Classification:
        """How likely each label is as the whole answer, by its exact probability under the model.

        ``answer`` is how a label is said, such as ``{"category":"{label}"}``; the prompt is as in ``extract``.
        """
        from edgekit.classify import classify

        return classify(self, text, labels, prompt, answer)

    def request(self, options: Options) -> Request:
        """What the scheduler is asked, from a call's options."""
        from edgekit.runtimes.asked import asked

        return asked(options, self._grammars)

    def _answer(self, prompt: str | Sequence[Mapping[str, Any]], request: Request) -> Generator[str | Finish]:
        events: SimpleQueue[str | Finish | BaseException] = SimpleQueue()
        ticket = self._scheduler.ticket(self.tokens(prompt), request, events.put, stream=True)
        self._scheduler.submit(ticket)
        try:
            while True:
                event = events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if not isinstance(event, str):
                    return
        finally:
            if not ticket.over:
                self._scheduler.cancel(ticket)


def _close(team: list[Scheduler], scheduler: Scheduler) -> None:
    for one in (*team, scheduler):
        one.close()


def _texts(pieces: Generator[str | Finish]) -> Generator[str]:
    """Only the text; closing this closes the answer too."""
    try:
        for piece in pieces:
            if isinstance(piece, str):
                yield piece
    finally:
        pieces.close()
