"""A web service over one model: /extract, /generate as server-sent events, /classify, /health.

Run: pip install 'edgekit[llamacpp,examples]', then python examples/service/service.py dist/restaurant-q4_k_m [port]
Try: curl -s localhost:8000/extract -H 'content-type: application/json' -d '{"text": "a table for six"}'

All requests share one model, which makes their answers together; a client that goes away ends its answer. What can't be
enforced (a schema, a regex) is refused with 422 before anything is generated. It listens on this machine only; put a proxy
that limits bodies and asks who is there in front of it before others can reach it.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

import edgekit

DEADLINE = 60.0
"""Seconds that an answer may take, its time in the queue included."""
Text = Annotated[str, Field(min_length=1, max_length=20_000)]
Tokens = Annotated[int, Field(ge=1, le=2048)]
T = TypeVar("T")


class Asked(BaseModel):
    """What all requests have in common: keys that nobody knows are an error."""

    model_config = ConfigDict(extra="forbid")


class ToExtract(Asked):
    """The bundle's schema and prompt where none are given."""

    text: Text
    output_schema: dict[str, Any] | None = Field(None, alias="schema")
    prompt: Text | None = None
    min_confidence: float | None = Field(None, ge=0, le=1)
    max_tokens: Tokens = 512


class ToGenerate(Asked):
    """At most one of schema, regex and choices."""

    prompt: Text
    output_schema: dict[str, Any] | None = Field(None, alias="schema")
    regex: Text | None = None
    choices: list[str] | None = None
    max_tokens: Tokens = 512
    temperature: float = Field(0.0, ge=0, le=2)
    seed: int | None = Field(None, ge=0, lt=2**32)


class ToClassify(Asked):
    """The prompt holds ``{text}``; the bundle's where none is given. The answer holds ``{label}``, as the model says it."""

    text: Text
    labels: list[Text] = Field(min_length=1, max_length=1000)
    prompt: Text | None = None
    answer: Text = "{label}"


class ClientGone(Exception):
    """Nobody is left to answer."""


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the client goes away."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ClientGone
    finally:
        for task in tasks:
            task.cancel()


def event(name: str, data: Any) -> str:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def events(first: str | None, pieces: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """The pieces of an answer as they come, then ``done``, or ``error`` where it broke off."""
    async with aclosing(pieces):
        try:
            if first is not None:
                yield event("text", first)
            async for piece in pieces:
                yield event("text", piece)
            yield event("done", {})
        except edgekit.EdgekitError as error:
            yield event("error", problem(error))


def problem(error: edgekit.EdgekitError) -> dict[str, str | None]:
    """An error's parts; not its path, which is the server's own business."""
    return {"error": error.what, "found": error.found, "expected": error.expected, "next": error.next_step}


def create_app(model: edgekit.Model) -> FastAPI:
    """The service; whoever loaded the model closes it."""
    app = FastAPI(title="edgekit")

    @app.exception_handler(edgekit.EdgekitError)
    async def refused(_: Request, error: edgekit.EdgekitError) -> Response:
        return JSONResponse(problem(error), 422 if isinstance(error, edgekit.InputError) else 503)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        # What was sent is not sent back: it may be what JSON can't say again.
        found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return JSONResponse({"error": "the request is malformed", "found": found[:10]}, 422)

    @app.exception_handler(ClientGone)
    async def gone(_: Request, __: ClientGone) -> Response:
        return Response(status_code=499)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": model.name}

    @app.post("/extract")
    async def extract(asked: ToExtract, request: Request) -> Response:
        work = model.aextract(
            asked.text,
            asked.output_schema,
            asked.prompt,
            min_confidence=asked.min_confidence,
            max_tokens=asked.max_tokens,
            deadline=DEADLINE,
        )
        return extracted(await while_there(request, work))

    @app.post("/generate")
    async def generate(asked: ToGenerate, request: Request) -> Response:
        pieces = model.astream(
            asked.prompt,
            schema=asked.output_schema,
            regex=asked.regex,
            choices=asked.choices,
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            seed=asked.seed,
            deadline=DEADLINE,
        )
        # The first piece decides between an answer and a refusal: afterwards the status has been sent.
        first = await while_there(request, anext(pieces, None))
        return StreamingResponse(events(first, pieces), media_type="text/event-stream")

    @app.post("/classify")
    async def classify(asked: ToClassify) -> dict[str, Any]:
        # Scored, not generated: over so soon that nobody's going away is waited for.
        found = await asyncio.to_thread(
            model.classify, asked.text, asked.labels, asked.prompt, answer=asked.answer
        )
        return {"label": found.label, "probabilities": dict(found.probabilities), "mass": found.mass}

    return app


def extracted(found: edgekit.Extraction) -> Response:
    """422 where the text is to blame that there are no fields; an answer that was cut off has no data either."""
    failure = found.failure
    body = {
        "data": found.data,
        "confidence": dict(found.confidence),
        "overall": found.overall,
        "calibrated": found.calibrated,
        "needs_review": found.needs_review,
        "failure": None if failure is None else {"code": failure.code, "message": failure.message},
    }
    blame = failure is not None and failure.code in ("empty", "encoding", "too_long")
    return JSONResponse(body, 422 if blame else 200)


if __name__ == "__main__":
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    with edgekit.load(sys.argv[1] if len(sys.argv) > 1 else "dist/restaurant-q4_k_m") as loaded:
        # Ctrl+C lets answers finish, for a while.
        uvicorn.run(create_app(loaded), port=port, timeout_graceful_shutdown=5)
