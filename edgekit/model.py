"""What an application embeds: load a bundle, then generate, stream, chat or extract."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from edgekit import chat as templates
from edgekit.answer import AnswerOptions, Extraction, Options
from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.runtimes.constraint import Grammar
    from edgekit.runtimes.engine import Engine
    from edgekit.runtimes.request import Finish, Request
    from edgekit.runtimes.scheduler import Scheduler

__all__ = ["Extraction", "Model", "load"]

PLACE: Final = "{text}"
"""Where an extraction's text goes in its prompt template."""
EPOCH: Final = 256


def load(
    path: str | os.PathLike[str],
    *,
    n_ctx: int | None = None,
    threads: int = 0,
    batch_threads: int = 0,
    n_gpu_layers: int | None = None,
    n_parallel: int = 8,
    n_kv: int | None = None,
    exact: bool = False,
    verify: bool = False,
) -> Model:
    """Open a bundle's folder or a .gguf file; unset options fit themselves to model and machine.

    ``n_parallel`` answers can be in the making at once; they share a KV cache of ``n_kv`` tokens, by default
    ``n_ctx``, or 256 for each where that is more. ``exact``: see ``Model``.
    ``verify`` checks the artifact's SHA-256 on the same open file that is then loaded. Raises ``BundleError`` or ``InputError`` for what can't be loaded, ``HardwareError`` where memory is short and
    ``RuntimeUnavailableError`` where llama.cpp is missing.
    """
    from edgekit.profiles.cpu import usable_cores
    from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

    path = Path(path)
    about: dict[str, Any] = {"name": path.stem}
    artifact: AbstractContextManager[Path] = nullcontext(path)
    if path.is_dir():
        from edgekit.bundle import Bundle

        bundle = Bundle.open(path)
        path, manifest = bundle.artifact, bundle.manifest
        artifact = bundle.verified() if verify else nullcontext(path)
        about = {
            "name": manifest.name,
            "prompt": manifest.prompt,
            "system": manifest.system,
            "schema": manifest.output_schema,
        }
    elif verify:
        raise InputError("only a bundle carries digests to verify", path=path)
    options = LlamaCppOptions(
        n_ctx=n_ctx,
        threads=threads or usable_cores(),
        batch_threads=batch_threads,
        n_gpu_layers=n_gpu_layers,
        n_seq_max=1 if exact else n_parallel,
        n_kv=n_kv,
    )
    with artifact as place:
        return Model(LlamaCppEngine(place, options), exact=exact, **about)


class Model:
    """A loaded model. Safe to share between threads: their answers are made together."""

    def __init__(
        self,
        engine: Engine,
        *,
        prompt: str | None = None,
        system: str | None = None,
        schema: Mapping[str, Any] | None = None,
        name: str = "model",
        parallel: int | None = None,
        exact: bool = False,
        workers: Callable[[], Sequence[Engine]] | None = None,
    ) -> None:
        """Wrap an engine; ``prompt`` and ``schema`` are what ``extract`` uses unless told otherwise.

        ``parallel`` answers at most are made at once, as many as the engine has sequences if unset. ``exact``: one
        at a time, and nothing of earlier ones reused but what can't change a bit, so that an answer depends on its
        own prompt alone. ``workers`` opens further engines over the same weights for ``extract_many``.
        """
        from edgekit.runtimes.scheduler import Scheduler

        self.name = name
        self.prompt, self.system, self.schema = prompt, system, schema
        self.epoch = EPOCH
        """Records of ``extract_many`` that are a world of their own: what comes before can't change their answers."""
        self._engine = engine
        self._scheduler = Scheduler(engine, parallel=parallel, exact=exact)
        self._make_workers = workers
        self._workers: list[Scheduler] = []
        self._grammars: dict[str, Grammar] = {}
        self._using = threading.Lock()

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
            for worker in self._workers:
                worker.close()
            self._scheduler.close()

    def workers(self) -> list[Scheduler]:
        """The schedulers among which ``extract_many`` deals its texts, opened when they are first needed."""
        from edgekit.runtimes.scheduler import Scheduler

        with self._using:
            if self._make_workers is not None and not self._workers:
                self._workers = [Scheduler(engine) for engine in self._make_workers()]
            return self._workers or [self._scheduler]

    def generate(
        self, prompt: str, *, system: str | None = None, raw: bool = False, **options: Unpack[Options]
    ) -> str:
        """The answer to one prompt, as the user's turn of the chat template where the model has one.

        ``raw`` continues the text as it stands. With ``schema`` the answer is JSON that matches it, unless
        ``max_tokens`` cut it off.
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

    def messages(
        self, prompt: str, *, system: str | None = None, raw: bool = False
    ) -> str | list[Mapping[str, Any]]:
        """A prompt as what is asked: the user's turn after the system's, or the text as it stands."""
        if raw or self._engine.chat_template is None:
            if system is not None:
                raise InputError("a system text needs a chat template", found="raw" if raw else "no template")
            return prompt
        system = self.system if system is None else system
        start: list[Mapping[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        return [*start, {"role": "user", "content": prompt}]

    def chat_pieces(
        self, messages: Sequence[Mapping[str, Any]], **options: Unpack[Options]
    ) -> Generator[str | Finish]:
        """As ``chat_stream``, and at the end a ``Finish``; the bundle's system text goes first where none does."""
        if self._engine.chat_template is None:
            raise InputError(
                "the model has no chat template", path=self.name, next_step="use generate(), which needs none"
            )
        if not messages:
            raise InputError("there is no message to answer")
        if self.system is not None and not any(message.get("role") == "system" for message in messages):
            messages = [{"role": "system", "content": self.system}, *messages]
        return self._answer(messages, self.request(options))

    def extract(
        self,
        text: str,
        schema: Mapping[str, Any] | None = None,
        prompt: str | None = None,
        *,
        min_confidence: float | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Extraction:
        """The fields of ``text`` as the schema has them; the bundle's schema and prompt where none are given.

        The prompt holds ``{text}``, which is replaced once and literally. A text that nothing can be extracted from
        gives a ``failure``; below ``min_confidence`` the result says ``needs_review``.
        """
        from edgekit.extraction import Extractor

        return Extractor(self, schema, prompt, min_confidence, options).one(text)

    def extract_many(
        self,
        texts: Iterable[str],
        schema: Mapping[str, Any] | None = None,
        prompt: str | None = None,
        *,
        min_confidence: float | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Iterator[Extraction]:
        """The fields of many texts, in their order, from any iterator, in bounded memory, several at once.

        Counted from the first text, every ``epoch`` of them is answered as if by a model just loaded, unless other
        calls run at the same time: the same texts give the same answers to the bit, also from the middle on.
        """
        from edgekit.extraction import Extractor

        return Extractor(self, schema, prompt, min_confidence, options).many(texts)

    def extraction_prompt(self, text: str, prompt: str | None = None) -> str:
        """The prompt that ``extract`` asks with."""
        prompt = self.prompt if prompt is None else prompt
        if prompt is None:
            raise self._missing("prompt template")
        if PLACE not in prompt:
            raise InputError(f"the prompt template has no place for the text: {PLACE}", found=prompt[:200])
        return prompt.replace(PLACE, text, 1)

    def extraction_schema(self, schema: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """The schema that ``extract`` holds the answer to."""
        schema = self.schema if schema is None else schema
        if schema is None:
            raise self._missing("output schema")
        return schema

    def _missing(self, what: str) -> InputError:
        return InputError(
            f"there is no {what} to extract by",
            path=self.name,
            next_step=f"pass one, or build the bundle with one (a prompt template holds {PLACE})",
        )

    def request(self, options: Options) -> Request:
        """What the scheduler is asked, from a call's options."""
        from edgekit.runtimes.request import Request
        from edgekit.runtimes.sampling import Sampling

        rest: dict[str, Any] = dict(options)
        stop = rest.pop("stop", ())
        schema = rest.pop("schema", None)
        return Request(
            max_tokens=rest.pop("max_tokens", Request.max_tokens),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            grammar=None if schema is None else self._grammar(schema),
            sampling=Sampling(**rest),
        )

    def _grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """Compiled once per schema: an extraction of 40,000 records asks for the same one each time."""
        from edgekit.runtimes.constraint import compile_schema
        from edgekit.runtimes.schema import check_schema

        text = check_schema(schema)
        if text not in self._grammars:
            if len(self._grammars) >= 16:
                self._grammars.clear()
            self._grammars[text] = compile_schema(schema)
        return self._grammars[text]

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

    def tokens(self, prompt: str | Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a text as it stands, or of messages through the chat template."""
        engine = self._engine
        with self._using:  # a model that is closed meanwhile would take its vocabulary with it
            if not isinstance(prompt, str):
                return templates.tokenize(engine, engine.chat_template or "", prompt)
            bos = engine.specials.get(engine.bos_token) if engine.add_bos else None
            return ([] if bos is None else [bos]) + engine.tokenize(prompt, special=False)


def _texts(pieces: Generator[str | Finish]) -> Generator[str]:
    """Only the text; closing this closes the answer too."""
    try:
        for piece in pieces:
            if isinstance(piece, str):
                yield piece
    finally:
        pieces.close()
