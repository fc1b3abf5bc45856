"""The model's asynchronous face: the same scheduler, waited for by an event loop instead of a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Unpack

from edgekit.answer import AnswerOptions, Extraction, Options

if TYPE_CHECKING:
    from edgekit.model import Model
    from edgekit.runtimes.request import Finish, Request
    from edgekit.runtimes.ticket import Sink


class AsyncFace:
    """Mixed into ``Model``: each method is its namesake's, with an ``a`` before it."""

    async def agenerate(
        self, prompt: str, *, system: str | None = None, raw: bool = False, **options: Unpack[Options]
    ) -> str:
        """The answer to one prompt; cancelling the task ends it."""
        pieces = self.astream(prompt, system=system, raw=raw, **options)
        return "".join([piece async for piece in pieces])

    async def astream(
        self, prompt: str, *, system: str | None = None, raw: bool = False, **options: Unpack[Options]
    ) -> AsyncGenerator[str]:
        """The same piece by piece; closing it ends the answer."""
        model = _model(self)
        asked = model.messages(prompt, system=system, raw=raw)
        async with aclosing(_answer(model, asked, model.request(options))) as pieces:
            async for piece in pieces:
                yield piece

    async def achat(self, messages: Sequence[Mapping[str, Any]], **options: Unpack[Options]) -> str:
        """The next turn of a conversation."""
        return "".join([piece async for piece in self.achat_stream(messages, **options)])

    async def achat_stream(
        self, messages: Sequence[Mapping[str, Any]], **options: Unpack[Options]
    ) -> AsyncGenerator[str]:
        """The same piece by piece."""
        model = _model(self)
        asked = model.conversation(messages)
        async with aclosing(_answer(model, asked, model.request(options))) as pieces:
            async for piece in pieces:
                yield piece

    async def aextract(
        self,
        text: str,
        schema: Any = None,
        prompt: str | None = None,
        *,
        min_confidence: float | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Extraction:
        """The fields of one text; as many at once as there are sequences, the others wait."""
        from edgekit.extraction import Extractor

        return await Extractor(_model(self), schema, prompt, min_confidence, options).aone(text)


def _model(face: AsyncFace) -> Model:
    from edgekit.model import Model

    assert isinstance(face, Model)
    return face


async def _answer(
    model: Model, prompt: str | Sequence[Mapping[str, Any]], request: Request
) -> AsyncGenerator[str]:
    events: asyncio.Queue[str | Finish | BaseException] = asyncio.Queue()
    scheduler = model._scheduler
    ticket = scheduler.ticket(model.tokens(prompt), request, to_loop(events.put_nowait), stream=True)
    scheduler.submit(ticket)
    try:
        while True:
            event = await events.get()
            if isinstance(event, BaseException):
                raise event
            if not isinstance(event, str):
                return
            yield event
    finally:
        if not ticket.over:
            scheduler.cancel(ticket)


def to_loop(sink: Sink) -> Sink:
    """A sink that may be called by any thread for one that belongs to the running event loop."""
    loop = asyncio.get_running_loop()

    def call(event: str | Finish | BaseException) -> None:
        with suppress(RuntimeError):  # a loop that is closed: nobody waits any more
            loop.call_soon_threadsafe(sink, event)

    return call
