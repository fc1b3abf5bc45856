"""What an application embeds: load a bundle, then generate, stream, chat or extract."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from edgekit import chat as templates
from edgekit.answer import AnswerOptions, Extraction, Failure, Options, collect, parse
from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.runtimes.constraint import Grammar
    from edgekit.runtimes.engine import Engine
    from edgekit.runtimes.generate import Finish, Request

__all__ = ["Extraction", "Model", "load"]

PLACE: Final = "{text}"
"""Where an extraction's text goes in its prompt template."""


def load(
    path: str | os.PathLike[str],
    *,
    n_ctx: int | None = None,
    threads: int = 0,
    batch_threads: int = 0,
    n_gpu_layers: int | None = None,
    exact: bool = True,
    verify: bool = False,
) -> Model:
    """Open a bundle's folder or a .gguf file; unset options fit themselves to model and machine.

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
    )
    with artifact as place:
        return Model(LlamaCppEngine(place, options), exact=exact, **about)


class Model:
    """A loaded model. Safe to share between threads: calls wait for each other, a stream until it ends."""

    def __init__(
        self,
        engine: Engine,
        *,
        prompt: str | None = None,
        system: str | None = None,
        schema: Mapping[str, Any] | None = None,
        name: str = "model",
        exact: bool = True,
    ) -> None:
        """Wrap an engine; ``prompt`` and ``schema`` are what ``extract`` uses unless told otherwise.

        ``exact``: an answer doesn't depend on what was asked before. Without it a conversation's next turn starts
        sooner, because every cached token is reused, but its logits differ in the last digits.
        """
        from edgekit.runtimes.generate import Session

        self.name = name
        self.prompt, self.system, self.schema = prompt, system, schema
        self._engine = engine
        self._session = Session(engine)
        self._exact = exact
        self._grammars: dict[str, Grammar] = {}
        self._lock = threading.Lock()
        self._owner: int | None = None

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
        """Free the model; a stream that is still open ends with an error."""
        if self._owner == threading.get_ident():
            self._engine.close()
            return
        with self._lock:
            self._engine.close()

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
        if raw or self._engine.chat_template is None:
            if system is not None:
                raise InputError("a system text needs a chat template", found="raw" if raw else "no template")
            return self._answer(prompt, self._request(options))
        messages = [] if system is None else [{"role": "system", "content": system}]
        return self.chat_pieces([*messages, {"role": "user", "content": prompt}], **options)

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
        return self._answer(messages, self._request(options))

    def extract(
        self,
        text: str,
        schema: Mapping[str, Any] | None = None,
        prompt: str | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Extraction:
        """The fields of ``text`` as the schema has them; the bundle's schema and prompt where none are given.

        The prompt holds ``{text}``, which is replaced once and literally.
        """
        schema = self.extraction_schema(schema)
        answer, finish = collect(self.pieces(self.extraction_prompt(text, prompt), schema=schema, **options))
        truncated = finish.reason == "length"
        data = None if truncated else parse(answer)
        failure = Failure("truncated", f"cut off after {finish.tokens} tokens") if truncated else None
        return Extraction(
            data, answer, truncated, finish.tokens, finish.seconds, needs_review=truncated, failure=failure
        )

    def extract_many(
        self,
        texts: Iterable[str],
        schema: Mapping[str, Any] | None = None,
        prompt: str | None = None,
        *,
        min_confidence: float | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Iterator[Extraction]:
        """The fields of many texts, in their order, from any iterator, in bounded memory.

        A text that can't be extracted from gives an ``Extraction`` with a ``failure``, and the others go on.
        """
        for text in texts:
            if not text.strip():
                failure = Failure("empty", "the text is empty")
                yield Extraction(None, "", False, 0, 0.0, needs_review=True, failure=failure)
            else:
                yield self.extract(text, schema, prompt, **options)

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

    def _request(self, options: Options) -> Request:
        from edgekit.runtimes.generate import Request
        from edgekit.runtimes.sampling import Sampling

        rest: dict[str, Any] = dict(options)
        stop = rest.pop("stop", ())
        schema = rest.pop("schema", None)
        return Request(
            max_tokens=rest.pop("max_tokens", Request.max_tokens),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            grammar=None if schema is None else self._grammar(schema),
            sampling=Sampling(**rest),
            exact=self._exact,
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
        with self._busy():
            yield from self._session.generate(self._tokens(prompt), request)

    def _tokens(self, prompt: str | Sequence[Mapping[str, Any]]) -> list[int]:
        engine = self._engine
        if not isinstance(prompt, str):
            return templates.tokenize(engine, engine.chat_template or "", prompt)
        bos = engine.specials.get(engine.bos_token) if engine.add_bos else None
        return ([] if bos is None else [bos]) + engine.tokenize(prompt, special=False)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """One call at a time. A thread that is within its own stream would wait for itself for ever."""
        if self._owner == threading.get_ident():
            raise InputError(
                "this thread is in the middle of a stream of the same model",
                next_step="read the stream to its end, or close() it, before the next call",
            )
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = None


def _texts(pieces: Generator[str | Finish]) -> Generator[str]:
    """Only the text; closing this closes the answer too."""
    try:
        for piece in pieces:
            if isinstance(piece, str):
                yield piece
    finally:
        pieces.close()
