"""``edgekit run`` and ``edgekit chat``, with a scripted engine in the model's place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgekit.cli import group
from edgekit.errors import InputError
from edgekit.model import Model
from edgekit.runtimes.fake import FakeEngine, Script

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How ``load`` was called, after the command ran; ``script`` and ``about`` say what it gives."""
    state: dict[str, Any] = {"script": "Hello 😀", "about": {}, "engine": {}}

    def load(path: Path, **options: Any) -> Model:
        state.update(path=path, options=options)
        script: Script = state["script"]
        return Model(
            FakeEngine(script, n_ctx=options.get("n_ctx") or 4096, **state["engine"]), **state["about"]
        )

    monkeypatch.setattr("edgekit.model.load", load)
    return state


def invoke(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(group, arguments, input=text)


def test_text_comes_out(loaded: dict[str, Any]) -> None:
    done = invoke("run", "some/bundle", "-p", "Hi", "--ctx", "99", "--threads", "2")
    assert (done.exit_code, done.stdout) == (0, "Hello 😀\n")
    assert loaded["path"] == Path("some/bundle")
    assert loaded["options"] == {"n_ctx": 99, "threads": 2, "verify": False}


def test_the_prompt_from_standard_input(loaded: dict[str, Any]) -> None:
    loaded["script"] = str.upper
    assert invoke("run", "b", "-p", "-", text="two\nlines é").stdout == "TWO\nLINES É\n"


def test_the_shape_of_json_output(loaded: dict[str, Any]) -> None:
    value = json.loads(invoke("run", "b", "-p", "Hi", "--json", "--max-tokens", "3").stdout)
    seconds = value.pop("seconds")
    assert isinstance(seconds, float)
    assert value == {"text": "Hel", "data": None, "finish": "length", "prompt_tokens": 6, "tokens": 3}


def test_a_schema_from_a_file(loaded: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA), "utf-8")
    loaded["script"] = '{"n":7}'
    assert invoke("run", "b", "-p", "Hi", "--schema", str(path)).stdout == '{"n":7}\n'
    value = json.loads(invoke("run", "b", "-p", "Hi", "--schema", str(path), "--json").stdout)
    assert (value["data"], value["finish"]) == ({"n": 7}, "schema")
    path.write_text('{"typ": "string"}', "utf-8")
    assert isinstance(invoke("run", "b", "-p", "Hi", "--schema", str(path)).exception, InputError)
    path.write_text("{", "utf-8")
    assert isinstance(invoke("run", "b", "-p", "Hi", "--schema", str(path)).exception, InputError)


def test_json_that_was_cut_off_is_an_error_or_marked(loaded: dict[str, Any]) -> None:
    loaded["script"] = '{"n":7}'
    loaded["about"] = {"prompt": "{text}", "schema": SCHEMA}
    cut = invoke("run", "b", "--extract", "-p", "x", "--max-tokens", "3")
    assert isinstance(cut.exception, InputError)
    assert "cut off after 3 tokens" in str(cut.exception)
    value = json.loads(invoke("run", "b", "--extract", "-p", "x", "--max-tokens", "3", "--json").stdout)
    assert (value["data"], value["finish"]) == (None, "length")


def test_extract_uses_the_bundles_prompt_and_schema(loaded: dict[str, Any]) -> None:
    asked: list[str] = []

    def script(prompt: str) -> str:
        asked.append(prompt)
        return '{"n":1}'

    loaded["script"] = script
    loaded["about"] = {"prompt": "Fields of {text}", "schema": SCHEMA}
    assert invoke("run", "b", "--extract", "-p", "a {text}").stdout == '{"n":1}\n'
    assert asked[-1] == "Fields of a {text}"
    assert invoke("run", "b", "--extract", "-p", "x", "--system", "y").exit_code == 2
    loaded["about"] = {}
    assert isinstance(invoke("run", "b", "--extract", "-p", "x").exception, InputError)


def test_help_has_an_example() -> None:
    for name in ("run", "chat"):
        assert f"Example: edgekit {name}" in invoke(name, "--help").stdout


def test_a_conversation_is_remembered(loaded: dict[str, Any]) -> None:
    loaded["script"] = str.upper
    done = invoke("chat", "b", text="one\n\ntwo\n/reset\nthree\n/exit\nnever\n")
    assert done.stdout == "ONE\nTWO\nTHREE\n"
    assert loaded["options"] == {"n_ctx": None, "threads": 0, "exact": False, "verify": False}
    assert invoke("chat", "b", text="one").stdout == "ONE\n"


def test_history_reaches_the_model(loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[dict[str, str]]] = []
    monkeypatch.setattr(Model, "chat_stream", lambda self, messages, **options: _told(seen, messages))
    invoke("chat", "b", "--system", "S", text="one\ntwo\n/reset\nthree\n")
    system = {"role": "system", "content": "S"}
    assert [[message["content"] for message in messages] for messages in seen] == [
        ["S", "one"],
        ["S", "one", "ok", "two"],
        ["S", "three"],
    ]
    assert seen[0][0] == system


def _told(seen: list[list[dict[str, str]]], messages: list[dict[str, str]]) -> Any:
    seen.append(messages)
    yield "ok"


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(
    loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[dict[str, str]]] = []

    def interrupted(self: Model, messages: list[dict[str, str]], **options: Any) -> Any:
        seen.append(messages)
        yield "half"
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "chat_stream", interrupted)
    done = invoke("chat", "b", text="one\ntwo\n")
    assert done.exit_code == 0
    assert done.stdout == "half\nhalf\n"
    assert [message["content"] for message in seen[1]] == ["one", "half", "two"]


def test_a_conversation_that_outgrew_the_context_goes_on(loaded: dict[str, Any]) -> None:
    loaded["script"] = "ok"
    done = invoke("chat", "b", "--ctx", "30", text=f"hi\n{'long ' * 30}\nyo\n")
    assert done.exit_code == 0
    assert done.stdout == "ok\nok\n"
    assert "doesn't fit" in done.stderr and "/reset" in done.stderr


def test_a_model_that_cannot_chat_says_so_at_once(loaded: dict[str, Any]) -> None:
    loaded["engine"] = {"chat_template": None}
    done = invoke("chat", "b", text="hi\n")
    assert isinstance(done.exception, InputError)
    assert "no chat template" in str(done.exception)
