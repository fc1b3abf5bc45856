"""The face that applications embed: generate, stream, chat, extract, from several threads, and what can go wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import edgekit
from edgekit.errors import BundleError, InputError
from edgekit.model import Model, load
from edgekit.runtimes.engine import Logits, Run
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.request import Finish

SCHEMA = {
    "type": "object",
    "properties": {
        "people": {"type": "integer", "minimum": 1, "maximum": 99},
        "when": {"type": ["string", "null"]},
    },
    "required": ["people", "when"],
    "additionalProperties": False,
}
JSON = '{"people":4,"when":"noon"}'


def heard(prompt: str) -> str:
    return f"<{prompt}>"


def remembering(asked: list[str], answer: str) -> Callable[[str], str]:
    def script(prompt: str) -> str:
        asked.append(prompt)
        return answer

    return script


class GatedEngine(FakeEngine):
    """Computes a step only when it is let to."""

    def __init__(self, answer: Any, **options: Any) -> None:
        super().__init__(answer, **options)
        self._gate = threading.Semaphore(0)
        self.free: Callable[[], bool] = bool
        """When all steps may go through."""

    def let(self, steps: int) -> None:
        self._gate.release(steps)

    def decode(self, runs: Sequence[Run]) -> Logits:
        while not self._gate.acquire(timeout=0.01) and not self.free():
            pass
        return super().decode(runs)


def test_generate_asks_as_the_user() -> None:
    with Model(FakeEngine({"Hi": "Hello 😀"})) as model:
        assert model.generate("Hi") == "Hello 😀"
        assert model.generate("Hi", max_tokens=2) == "He"
        assert model.generate("Hi", stop="lo") == "Hel"
        assert model.generate("Hi", stop=["l", "o"], temperature=0.0) == "He"


def test_stream_gives_whole_characters() -> None:
    with Model(FakeEngine("é😀")) as model:
        assert list(model.stream("x")) == ["é", "😀"]


def test_raw_text_has_no_template() -> None:
    engine = FakeEngine(heard)
    with Model(engine) as model:
        assert model.generate("<|user|>Hi", raw=True) == "<<|user|>Hi>"
        assert engine._tokens[0][0] == engine.specials["<|bos|>"]
        with pytest.raises(InputError, match="chat template"):
            model.generate("x", raw=True, system="y")
    engine = FakeEngine(heard, chat_template=None)
    with Model(engine) as model:
        assert model.generate("Hi") == "<Hi>"
        with pytest.raises(InputError, match="no chat template"):
            model.chat([{"role": "user", "content": "Hi"}])


def test_a_conversation() -> None:
    seen: list[str] = []
    engine = FakeEngine(remembering(seen, "ok"))
    with Model(engine, system="Be kind.") as model:
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        assert model.chat([*messages, {"role": "user", "content": "c"}]) == "ok"
        assert seen[-1] == "c"
        text = bytes(token for token in engine._tokens[0] if token < 256)
        assert text == b"Be kind.abcok"
        assert list(model.chat_stream([{"role": "system", "content": "S"}, *messages])) == ["o", "k"]
        assert b"Be kind." not in bytes(token for token in engine._tokens[0] if token < 256)
        with pytest.raises(InputError, match="no message"):
            model.chat([])


def test_pieces_end_with_the_figures() -> None:
    with Model(FakeEngine("ok")) as model:
        *texts, finish = model.pieces("Hi")
        assert texts == ["o", "k"]
        assert isinstance(finish, Finish)
        assert (finish.reason, finish.tokens) == ("stop", 2)


def test_generate_under_a_schema() -> None:
    with Model(FakeEngine("sorry, I can't")) as model:
        assert list(json.loads(model.generate("x", schema=SCHEMA, max_tokens=50))) == ["people", "when"]
        assert model.request({"schema": SCHEMA}).grammar is model.request({"schema": {**SCHEMA}}).grammar


def test_extract() -> None:
    asked: list[str] = []
    engine = FakeEngine(remembering(asked, JSON))
    with Model(engine, prompt="Fields of {text} ({text})", schema=SCHEMA) as model:
        found = model.extract("a {text} {0} %s")
        assert (found.data, found.text, found.truncated) == ({"people": 4, "when": "noon"}, JSON, False)
        assert found.tokens == len(JSON)
        assert asked[-1] == "Fields of a {text} {0} %s ({text})"
        assert model.extract("x", {"const": 1}, prompt="{text}").data == 1
        cut = model.extract("x", max_tokens=5)
        assert (cut.data, cut.text, cut.truncated, cut.needs_review) == (None, JSON[:5], True, True)
        assert cut.failure is not None and cut.failure.code == "truncated"


def test_extract_needs_a_schema_and_a_prompt() -> None:
    with Model(FakeEngine("x")) as model:
        with pytest.raises(InputError, match="no output schema"):
            model.extract("x")
        with pytest.raises(InputError, match="no prompt template"):
            model.extract("x", SCHEMA)
        with pytest.raises(InputError, match="no place for the text"):
            model.extract("x", SCHEMA, prompt="Fields:")


def test_a_number_that_python_cannot_read() -> None:
    with Model(FakeEngine("9" * 5000, n_ctx=9000)) as model:
        found = model.extract("x", {"type": "integer"}, prompt="{text}", max_tokens=6000)
    assert found.data is None and found.failure is not None and found.failure.code == "invalid"


def test_a_bad_schema_or_option_is_told_before_anything_is_generated() -> None:
    engine = FakeEngine("x")
    with Model(engine) as model:
        with pytest.raises(InputError, match="output schema"):
            model.stream("x", schema={"typ": "string"})
        with pytest.raises(InputError, match="temperature"):
            model.stream("x", temperature=-1)
        with pytest.raises(TypeError, match="temperatur"):
            model.stream("x", temperatur=1)  # type: ignore[call-arg]
    assert engine.decoded == 0


def test_calls_from_several_threads() -> None:
    answers: dict[str, str] = {}
    with Model(FakeEngine(lambda prompt: prompt * 20)) as model:

        def ask(name: str) -> None:
            answers[name] = "".join(model.stream(name))

        threads = [threading.Thread(target=ask, args=(f"<{i}>",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {f"<{i}>": f"<{i}>" * 20 for i in range(8)}


def test_streams_of_one_thread_run_side_by_side() -> None:
    with Model(FakeEngine("abc", n_seq_max=2)) as model:
        stream = model.stream("x")
        assert next(stream) == "a"
        assert model.generate("y") == "abc"
        assert list(stream) == ["b", "c"]
        stream = model.stream("x")
        next(stream)
        stream.close()
        for _ in model.stream("x"):
            break
        assert model.generate("y") == "abc"


def test_a_stream_left_open_does_not_keep_the_only_slot() -> None:
    with Model(FakeEngine("abc", n_seq_max=1)) as model:
        stream = model.stream("x")
        assert next(stream) == "a"
        assert model.generate("y") == "abc"
        assert list(stream) == ["b", "c"]


def test_closing_ends_open_streams() -> None:
    engine = GatedEngine("abc")
    with Model(engine) as model:
        stream = model.stream("x")
        engine.let(2)
        assert next(stream) == "a"
        engine.free = lambda: model._scheduler._closed
    with pytest.raises(InputError, match="closed"):
        list(stream)
    with pytest.raises(InputError, match="closed"):
        model.generate("x")


def test_an_error_leaves_the_model_usable() -> None:
    with Model(FakeEngine({"x": "ok"}, n_ctx=40)) as model:
        with pytest.raises(InputError, match="doesn't fit"):
            model.generate("y" * 50)
        with pytest.raises(InputError, match="no answer"):
            model.generate("y")
        assert model.generate("x") == "ok"


@pytest.fixture(scope="module")
def model(base_gguf: Path) -> Iterator[Model]:
    with load(base_gguf, n_ctx=512, threads=1) as model:
        yield model


def test_a_gguf_file(model: Model, base_gguf: Path) -> None:
    assert model.name == base_gguf.stem
    text = model.generate("Extract banking: intent\nmy card never arrived", max_tokens=40)
    assert text == model.generate("Extract banking: intent\nmy card never arrived", max_tokens=40)
    assert text


def test_the_same_seed_the_same_answer(model: Model) -> None:
    options: dict[str, Any] = {"temperature": 1.5, "top_p": 0.95, "max_tokens": 30}
    first = model.generate("Hello", seed=5, **options)
    assert model.generate("Hello", seed=6, **options) != first
    assert model.generate("Hello", seed=5, **options) == first


def test_extract_from_a_real_model(model: Model) -> None:
    prompt = "Extract restaurant: people, when\n{text}"
    for text in ("table for 4 at noon", 'quote " brace } and <|eot_id|>', "x"):
        found = model.extract(text, SCHEMA | {"properties": SCHEMA_BOUNDED}, prompt=prompt)
        assert set(found.data) == {"people", "when"}
    empty = model.extract(" ", SCHEMA, prompt=prompt)
    assert empty.failure is not None and empty.failure.code == "empty"


SCHEMA_BOUNDED: dict[str, Any] = {
    "people": {"type": "integer", "minimum": 1, "maximum": 99},
    "when": {"type": ["string", "null"], "maxLength": 20},
}


def test_what_can_not_be_loaded(tmp_path: Path, base_gguf: Path) -> None:
    with pytest.raises(InputError, match="no model here"):
        edgekit.load(tmp_path / "none.gguf")
    with pytest.raises(BundleError, match="not a bundle"):
        edgekit.load(tmp_path)
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 40)
    with pytest.raises(InputError, match=r"junk\.gguf"):
        edgekit.load(junk)
    data = base_gguf.read_bytes()
    short = tmp_path / "short.gguf"
    short.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"short\.gguf"):
        edgekit.load(short)
