"""The asynchronous face: answers, streams, cancellation, many at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgekit.errors import InputError
from edgekit.model import Model
from edgekit.runtimes.fake import FakeEngine

SCHEMA: dict[str, Any] = {"type": "string", "maxLength": 40}


def echo(prompt: str) -> str:
    return f"<{prompt}>"


def test_the_same_as_its_namesakes() -> None:
    async def run(model: Model) -> None:
        assert await model.agenerate("a") == "<a>"
        assert [piece async for piece in model.astream("ab")] == ["<", "a", "b", ">"]
        assert await model.achat([{"role": "user", "content": "c"}]) == "<c>"
        assert await model.agenerate("d", choices=["yes", "no"]) in ("yes", "no")
        with pytest.raises(InputError, match="doesn't fit"):
            await model.agenerate("x" * 5000)

    with Model(FakeEngine(echo, n_seq_max=2)) as model:
        asyncio.run(run(model))


def test_extract() -> None:
    async def run(model: Model) -> list[Any]:
        found = await asyncio.gather(*(model.aextract(f"text {index}") for index in range(50)))
        empty = await model.aextract(" ")
        assert empty.failure is not None
        return [one.data for one in found]

    engine = FakeEngine(lambda prompt: f'"{prompt}"', n_seq_max=4)
    with Model(engine, prompt="{text}", schema=SCHEMA) as model:
        assert asyncio.run(run(model)) == [f"text {index}" for index in range(50)]


def test_cancelling_a_task_frees_its_slot() -> None:
    async def run(model: Model) -> None:
        stream = model.astream("long")
        assert await anext(stream) == "x"
        task = asyncio.create_task(model.agenerate("another"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await stream.aclose()
        assert await model.agenerate("y", max_tokens=3) == "xxx"

    with Model(FakeEngine("x" * 4000, n_ctx=8000, n_seq_max=1)) as model:
        asyncio.run(run(model))


def test_a_loop_that_is_gone_hears_nothing() -> None:
    async def run(model: Model) -> None:
        await anext(model.astream("long", max_tokens=3000))

    with Model(FakeEngine("x" * 4000, n_ctx=8000, n_seq_max=1)) as model:
        asyncio.run(run(model))
        assert model.generate("y", max_tokens=2) == "xx"
