"""The web service: its answers, its refusals, its streams, and clients that go away; no socket is opened."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import edgekit
from edgekit import Model
from edgekit.runtimes.fake import FakeEngine
from tests.core.examples import SCHEMA, Gate, load_example


@pytest.fixture(scope="module")
def service() -> Any:
    """The example's module."""
    return load_example("service/service.py")


@pytest.fixture
def client(service: Any) -> Iterator[TestClient]:
    """The service over a scripted model."""
    engine = FakeEngine('{"people":"two"}', n_seq_max=4, n_ctx=600)
    with Model(engine, prompt="Q: {text}", schema=SCHEMA, name="fake") as model:
        yield TestClient(service.create_app(model))


def events(body: str) -> list[tuple[str, Any]]:
    """Server-sent events by the letter: fields on lines, events between empty ones."""
    found = []
    for block in body.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_a_real_model(service: Any, bundles: Path) -> None:
    with edgekit.load(bundles / "restaurant-q8_0", threads=1) as model:
        client = TestClient(service.create_app(model))
        assert client.get("/health").json() == {"status": "ok", "model": "restaurant"}
        found = client.post("/extract", json={"text": "My name is Zoe Miller and we are six"}).json()
        assert (found["data"]["people"], found["data"]["first_name"]) == ("six", "Zoe")
        assert 0 < found["overall"] <= min(found["confidence"].values()) and not found["calibrated"]
        asked = {
            "text": "I lost my card",
            "labels": ["card_arrival", "lost_or_stolen_card", "top_up_failed"],
            "prompt": "Extract banking: intent\n{text}",
            "answer": '{"intent":"{label}"}',
        }
        found = client.post("/classify", json=asked).json()
        assert found["label"] == "lost_or_stolen_card" and found["mass"] > 0.5
        assert abs(sum(found["probabilities"].values()) - 1) < 1e-9


def test_generate_streams(client: TestClient) -> None:
    answer = client.post("/generate", json={"prompt": "x"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *pieces, last = events(answer.text)
    assert len(pieces) > 5 and {name for name, _ in pieces} == {"text"} and last == ("done", {})
    assert "".join(text for _, text in pieces) == '{"people":"two"}'


@pytest.mark.parametrize("held", [{"schema": {"const": "yes"}}, {"regex": "ye[s]"}, {"choices": ["yes"]}])
def test_generate_under_a_constraint(client: TestClient, held: dict[str, Any]) -> None:
    *pieces, last = events(client.post("/generate", json={"prompt": "x", **held}).text)
    assert "".join(text for _, text in pieces).strip('"') == "yes" and last == ("done", {})


REFUSED = {
    "no schema that is one": ("/extract", {"text": "x", "schema": {"type": "strin"}}),
    "a schema that can't be enforced": ("/extract", {"text": "x", "schema": {"not": {"type": "string"}}}),
    "a prompt without a place": ("/extract", {"text": "x", "prompt": "x"}),
    "a text too long": ("/extract", {"text": "x" * 5000}),
    "an empty text": ("/extract", {"text": ""}),
    "a blank text": ("/extract", {"text": "  "}),
    "half a character": ("/extract", '{"text": "\\ud800"}'),
    "an unknown key": ("/extract", {"text": "x", "shema": {}}),
    "not JSON": ("/extract", "{"),
    "not an object": ("/extract", "[]"),
    "a schema for the stream": ("/generate", {"prompt": "x", "schema": {"type": "strin"}}),
    "a regex": ("/generate", {"prompt": "x", "regex": "("}),
    "two of them": ("/generate", {"prompt": "x", "regex": "a", "choices": ["a"]}),
    "a prompt too long": ("/generate", {"prompt": "x" * 5000}),
    "a number out of range": ("/generate", {"prompt": "x", "max_tokens": 0}),
    "labels twice": ("/classify", {"text": "x", "labels": ["a", "a"]}),
    "an answer without a place": ("/classify", {"text": "x", "labels": ["a"], "answer": "x"}),
    "no labels": ("/classify", {"text": "x", "labels": []}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_a_clear_4xx(client: TestClient, name: str) -> None:
    place, asked = REFUSED[name]
    body = asked if isinstance(asked, str) else json.dumps(asked)
    answer = client.post(place, content=body, headers={"content-type": "application/json"})
    found = answer.json()
    assert answer.status_code == 422
    assert found.get("error") or found["failure"]["code"] in ("empty", "too_long")
    assert client.post("/extract", json={"text": "x"}).status_code == 200


def test_a_cut_answer_has_no_data(client: TestClient) -> None:
    found = client.post("/extract", json={"text": "x", "max_tokens": 13}).json()
    assert found["data"] is None and found["failure"]["code"] == "truncated"


def test_a_stream_that_breaks_off_says_so(service: Any) -> None:
    asked: list[str] = []

    def script(prompt: str) -> str:
        asked.append(prompt)
        if len(asked) > 3:
            raise edgekit.HardwareError("the card fell out")
        return "an answer"

    with Model(FakeEngine(script)) as model:
        answer = TestClient(service.create_app(model)).post("/generate", json={"prompt": "x"})
    *pieces, last = events(answer.text)
    assert "".join(text for _, text in pieces) == "an " and answer.status_code == 200
    assert last[0] == "error" and last[1]["error"] == "the card fell out"


def test_an_engine_that_fails_at_once_is_a_503(service: Any) -> None:
    def script(prompt: str) -> str:
        raise edgekit.HardwareError("the card fell out")

    with Model(FakeEngine(script), prompt="{text}", schema=SCHEMA) as model:
        client = TestClient(service.create_app(model))
        for path, asked in (("/generate", {"prompt": "x"}), ("/extract", {"text": "x"})):
            answer = client.post(path, json=asked)
            assert answer.status_code == 503 and answer.json()["error"] == "the card fell out"


def test_many_clients_share_the_model(service: Any) -> None:
    engine = FakeEngine(lambda prompt: json.dumps({"people": prompt}, separators=(",", ":")), n_seq_max=4)
    with Model(engine, prompt="{text}", schema=SCHEMA) as model:
        app = service.create_app(model)

        async def all_at_once() -> list[dict[str, Any]]:
            asked = [Client(app).post("/extract", {"text": f"n{i}"}) for i in range(32)]
            return list(await asyncio.gather(*asked))

        found = asyncio.run(all_at_once())
    assert [one["data"]["people"] for one in found] == [f"n{i}" for i in range(32)]


class Client:
    """One request by the ASGI protocol, from a client that can go away."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.gone = asyncio.Event()
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()

    async def post(self, path: str, asked: Any) -> Any:
        """The whole answer, parsed where it is JSON."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        start = [{"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}]
        body = b""

        async def receive() -> Any:
            if start:
                return start.pop()
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal body
            if message["type"] == "http.response.body":
                body += message["body"]
                self.chunks.put_nowait(message["body"])

        await self._app(scope, receive, send)
        return json.loads(body) if body.startswith(b"{") else body


def test_a_client_that_goes_away_ends_its_extraction(service: Any) -> None:
    gate = Gate('{"people":"' + "x" * 19 + '"}')
    engine = FakeEngine(gate)

    async def leave(app: Any) -> Any:
        client = Client(app)
        task = asyncio.create_task(client.post("/extract", {"text": "x"}))
        await asyncio.to_thread(gate.reached.wait)
        client.gone.set()
        body = await task
        gate.open.set()
        return body

    with Model(engine, prompt="{text}", schema=SCHEMA) as model:
        assert asyncio.run(leave(service.create_app(model))) == b""
        done = engine.decoded
        assert model.extract("x").data == {"people": "x" * 19}
    assert done < 20


def test_a_client_that_goes_away_ends_its_stream(service: Any) -> None:
    engine = FakeEngine("x" * 3000, n_ctx=4000)

    async def leave(app: Any, model: Model) -> bytes:
        client = Client(app)
        task = asyncio.create_task(client.post("/generate", {"prompt": "x", "max_tokens": 2048}))
        await client.chunks.get()
        client.gone.set()
        body: bytes = await task
        # The only sequence is free again: this would wait for it.
        assert await model.agenerate("y", max_tokens=1) == "x"
        return body

    with Model(engine) as model:
        body = asyncio.run(leave(service.create_app(model), model))
    assert b"event: done" not in body
