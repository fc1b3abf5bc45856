"""Arguments of the wrong kind: told as what they are, before anything is asked of the engine, and nobody else suffers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgekit
from edgekit.arguments import OPTIONS
from edgekit.errors import InputError
from edgekit.model import Model
from edgekit.runtimes.asked import asked
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.grammars import GrammarCache
from edgekit.runtimes.request import Request
from edgekit.runtimes.sampling import Sampling

ANY: Any = None
WRONG: dict[str, tuple[Any, ...]] = {
    "max_tokens": ("9", 1.5, None, True, [], 0, -3),
    "deadline": ("3", [], True, 0, -1, float("nan")),
    "stop": (5, None, [5], "", ["a", ""], {"a": 1}, b"x", True),
    "temperature": (None, "hot", [], True, -1, float("nan"), 1e9),
    "top_k": (1.5, "3", None, -1, 2**40),
    "top_p": ("1", None, 0, 1.1, -0.5),
    "min_p": ("1", None, 1.5, -0.1),
    "seed": ([1], "x", 1.5, True),
    "repetition_penalty": (None, "1", 0, float("inf")),
    "repetition_window": (1.5, None, "8", -1),
    "regex": (5, ["a"], b"x", "(", "\ud800"),
    "lark": (5, ["a"], "start: (", "\ud800"),
    "choices": (5, "ab", [5], [], ["a", "a"], [""], {"a"}, ["\ud800"]),
    "schema": (5, "object", [], {"type": "nothing"}, {"const": "\ud800"}, int),
}


@pytest.fixture
def model() -> Iterator[Model]:
    with Model(FakeEngine("ok", n_seq_max=2), prompt="{text}", schema={"type": "string"}) as model:
        yield model
        assert model.generate("x") == "ok"


def test_every_option_is_tried() -> None:
    assert {*OPTIONS, "schema"} == set(WRONG)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_options(model: Model, name: str, value: Any) -> None:
    options: Any = {name: value}
    with pytest.raises(InputError):
        model.stream("x", **options)
    with pytest.raises(InputError):
        model.chat_stream([{"role": "user", "content": "x"}], **options)
    with pytest.raises(InputError):
        asyncio.run(model.agenerate("x", **options))
    if name not in ("schema", "regex", "lark", "choices"):
        with pytest.raises(InputError):
            model.extract_many([], **options)
    assert isinstance(model._engine, FakeEngine) and model._engine.decoded == 0


CALLS: dict[str, Callable[[Model], Any]] = {
    "a prompt": lambda model: model.generate(ANY),
    "a raw prompt": lambda model: model.generate(ANY, raw=True),
    "bytes": lambda model: model.generate(b"x"),  # type: ignore[arg-type]
    "half a character": lambda model: model.generate("\ud800"),
    "half a raw character": lambda model: model.generate("\ud800", raw=True),
    "a system text": lambda model: model.generate("x", system=5),  # type: ignore[arg-type]
    "half a character for the system": lambda model: model.generate("x", system="\udfff"),
    "messages": lambda model: model.chat(5),  # type: ignore[arg-type]
    "a text as messages": lambda model: model.chat("x"),  # type: ignore[arg-type]
    "messages of texts": lambda model: model.chat(["x"]),  # type: ignore[list-item]
    "a role": lambda model: model.chat([{"role": 5, "content": "x"}]),
    "half a character in a message": lambda model: model.chat([{"role": "user", "content": "\ud800"}]),
    "confidence": lambda model: model.extract("x", min_confidence="a"),  # type: ignore[arg-type]
    "confidence of many": lambda model: model.extract_many([], min_confidence=[]),  # type: ignore[arg-type]
    "a template": lambda model: model.extract("x", prompt=5),  # type: ignore[arg-type]
    "texts": lambda model: next(model.extract_many(5)),  # type: ignore[arg-type]
    "labels": lambda model: model.classify("x", 5),  # type: ignore[arg-type]
    "no labels": lambda model: model.classify("x", ANY),
    "labels that are a set": lambda model: model.classify("x", {"a", "b"}),  # type: ignore[arg-type]
    "half a label": lambda model: model.classify("x", ["\ud800"]),
    "an answer": lambda model: model.classify("x", ["a"], answer=5),  # type: ignore[arg-type]
    "a text to classify": lambda model: model.classify(5, ["a"]),  # type: ignore[arg-type]
    "half a text to classify": lambda model: model.classify("\ud800", ["a"]),
    "what to load": lambda _: edgekit.load(5),  # type: ignore[arg-type]
    "a model's prompt": lambda _: Model(FakeEngine("x"), prompt=5),  # type: ignore[arg-type]
    "a model's count": lambda _: Model(FakeEngine("x"), parallel=-1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_calls(model: Model, call: Callable[[Model], Any]) -> None:
    with pytest.raises(InputError):
        call(model)
    with pytest.raises(InputError):
        call(Model(FakeEngine("ok", chat_template=None), prompt="{text}", schema={"type": "string"}))


@pytest.mark.parametrize(
    "options",
    [
        {"n_ctx": "many"}, {"n_ctx": 1.5}, {"n_parallel": "2"}, {"n_parallel": 0}, {"threads": "2"}, {"threads": -1},
        {"kv_type": "f15"}, {"kv_type": 5}, {"n_kv": "x"}, {"batch_threads": []}, {"n_gpu_layers": "all"},
    ],
)  # fmt: skip
def test_loading(base_gguf: Path, options: Any) -> None:
    with pytest.raises(InputError):
        edgekit.load(base_gguf, **options)


def test_what_is_not_set_is_as_by_default() -> None:
    grammars = GrammarCache()
    nothing = {"schema": None, "regex": None, "lark": None, "choices": None, "deadline": None, "seed": None}
    assert asked({}, grammars) == asked({"stop": ()}, grammars) == asked(nothing, grammars) == Request()


def test_options_become_a_request() -> None:
    found = asked(
        {"stop": "end", "max_tokens": 3, "deadline": 2, "temperature": 1, "top_k": 5, "seed": 7},
        GrammarCache(),
    )
    sampling = Sampling(temperature=1, top_k=5, seed=7)
    assert found == Request(max_tokens=3, deadline=2, stop=("end",), sampling=sampling)
    assert asked({"stop": ["a", "b"]}, GrammarCache()).stop == ("a", "b")


def test_one_grammar_at_a_time_and_each_compiled_once() -> None:
    grammars = GrammarCache()
    for options in (
        {"regex": "a+"},
        {"lark": 'start: "a"'},
        {"choices": ["a", "b"]},
        {"schema": {"const": 1}},
    ):
        first = asked(options, grammars).grammar
        assert first is not None and asked(dict(options), grammars).grammar is first
        with pytest.raises(InputError, match="one thing only"):
            asked({"regex": "b", "choices": ["c"], **options}, grammars)
        with pytest.raises(InputError, match="stop strings"):
            asked({**options, "stop": "x"}, grammars)
    with pytest.raises(TypeError, match="temperatur"):
        asked({"temperatur": 1}, grammars)
