"""``edgekit extract`` as a user types it, with a scripted engine in the model's place."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from rich.progress import Progress

from edgekit.cli import group, meter
from edgekit.errors import InputError
from edgekit.model import Model
from edgekit.pipeline.tally import Tally
from edgekit.runtimes.fake import FakeEngine

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How ``load`` was called; each answer is the length of the prompt."""
    state: dict[str, Any] = {"calls": 0}

    def load(path: Path, **options: Any) -> Model:
        state.update(path=path, options=options, calls=state["calls"] + 1)
        return Model(FakeEngine(lambda prompt: f'{{"n":{len(prompt)}}}'))

    monkeypatch.setattr("edgekit.model.load", load)
    return state


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a model's file, a schema, a prompt, and three records of which one is empty."""
    monkeypatch.chdir(tmp_path)
    Path("m.gguf").write_bytes(b"GGUF")
    Path("schema.json").write_text(json.dumps(SCHEMA))
    Path("prompt.txt").write_text("Length of {text}\n")
    Path("in.jsonl").write_text('{"text": "abc"}\n{"id": "b", "text": ""}\n{"text": "abcdef"}\n')
    return tmp_path


def invoke(*arguments: str, text: str | bytes | None = None) -> Result:
    always = ["--schema", "schema.json", "--prompt", "@prompt.txt"]
    return CliRunner().invoke(group, ["extract", "m.gguf", *arguments, *always], input=text)


def test_fields_come_out(here: Path, loaded: dict[str, Any]) -> None:
    done = invoke(
        "in.jsonl", "-o", "out.jsonl", "--ctx", "99", "--threads", "2", "--parallel", "4", "--verify"
    )
    assert done.exit_code == 0, done.output
    assert loaded["options"] == {"n_ctx": 99, "threads": 2, "n_parallel": 4, "verify": True}
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [(line["id"], line["data"]) for line in lines] == [
        ("in.jsonl:1", {"n": 13}),
        ("b", None),
        ("in.jsonl:3", {"n": 16}),
    ]
    assert "out.jsonl: 3 records" in done.stdout
    assert "failed: 1 (empty 1)" in done.stdout
    assert "--review FILE would have listed them" in done.stdout
    assert "loading the model" in done.stderr


def test_a_finished_run_says_so_and_loads_nothing(here: Path, loaded: dict[str, Any]) -> None:
    assert invoke("in.jsonl", "-o", "out.jsonl").exit_code == 0
    before = Path("out.jsonl").read_bytes()
    done = invoke("in.jsonl", "-o", "out.jsonl")
    assert "finished already, 3 records; nothing to do" in done.stdout
    assert (loaded["calls"], Path("out.jsonl").read_bytes()) == (1, before)
    assert "finished already" not in invoke("in.jsonl", "-o", "out.jsonl", "--force").stdout
    assert loaded["calls"] == 2


def test_the_shape_of_json_output(here: Path, loaded: dict[str, Any]) -> None:
    done = invoke("in.jsonl", "-o", "out.csv", "--review", "doubts.jsonl", "--json")
    value = json.loads(done.stdout)
    assert done.stderr == ""
    assert isinstance(value.pop("seconds"), float) and isinstance(value.pop("records_per_second"), float)
    assert value == {
        "out": "out.csv",
        "records": 3,
        "new": 3,
        "errors": {"empty": 1},
        "review": 1,
        "tokens": value["tokens"],
        "calibrated": False,
        "differ": 0,
        "duplicate_ids": 0,
        "notes": [],
        "already_finished": False,
    }
    assert json.loads(invoke("in.jsonl", "-o", "out.csv", "--review", "doubts.jsonl", "--json").stdout)[
        "already_finished"
    ]


def test_records_from_a_pipe(here: Path, loaded: dict[str, Any]) -> None:
    assert invoke("-", "-o", "out.jsonl", text="one\r\nfour\n").exit_code == 0
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [(line["id"], line["data"]["n"]) for line in lines] == [("stdin:1", 13), ("stdin:2", 14)]


def test_ids_that_came_twice_are_told(here: Path, loaded: dict[str, Any]) -> None:
    Path("in.jsonl").write_text('{"id": "a", "text": "x"}\n' * 3)
    assert "ids that came more than once: 2, first 'a'" in invoke("in.jsonl", "-o", "out.jsonl").stdout


def test_max_errors_is_one_typed_error(here: Path, loaded: dict[str, Any]) -> None:
    done = invoke("in.jsonl", "-o", "out.jsonl", "--max-errors", "0")
    assert isinstance(done.exception, InputError)
    assert "failed records: 1, more than --max-errors 0" in str(done.exception)
    assert invoke("in.jsonl", "-o", "out.jsonl").exit_code == 0


def test_ctrl_c_says_how_to_go_on(
    here: Path, loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(meter.LogLines, "update", interrupt)
        done = invoke("in.jsonl", "-o", "out.jsonl", "--min-confidence", "0.5")
    assert done.exit_code != 0 and "run the same command again to go on" in done.stderr
    done = invoke("in.jsonl", "-o", "out.jsonl", "--min-confidence", "0.5")
    assert "checking the 1 records that are done" in done.stderr
    assert "out.jsonl: 3 records (1 of them before)" in done.stdout
    assert "aren't calibrated" in done.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        ["--delimiter", "ab"],
        ["--delimiter", '"'],
        ["--text-field", "id"],
        ["--text-field", "a", "--id-field", "a"],
        ["--min-confidence", "2"],
        ["--format", "xml"],
        ["--parallel", "0"],
    ],
)
def test_wrong_usage(wrong: list[str], here: Path, loaded: dict[str, Any]) -> None:
    assert invoke("in.jsonl", "-o", "out.jsonl", *wrong).exit_code == 2
    assert not Path("out.jsonl").exists()


def test_wrong_input_leaves_nothing(here: Path, loaded: dict[str, Any]) -> None:
    before = sorted(here.iterdir())
    for wrong in (["in.jsonl", "--text-field", "body"], ["nothing"], ["in.jsonl", "--sync-every", "x"]):
        assert isinstance(invoke(*wrong, "-o", "out.jsonl").exception, InputError)
    assert sorted(here.iterdir()) == before and loaded["calls"] == 0


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr("edgekit.cli.meter.time.monotonic", lambda: clock[0])
    log = meter.LogLines()
    tally = Tally(errors={"empty": 2})
    for second in range(0, 25, 5):
        clock[0] = 100.0 + second
        tally.done, tally.reviewed = 100 + 10 * second, 3
        log.update(tally, 0.5 + second / 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "200 records, 10.0 records/s, 2 failed, 3 to review, 0:40 left",
        "300 records, 10.0 records/s, 2 failed, 3 to review, 0:30 left",
    ]
    clock[0] = 200.0
    log.update(tally, None)
    assert "left" not in capsys.readouterr().err


def test_a_terminal_gets_a_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Progress("{task.description}", console=console) as progress:
        bar = meter.Bar(progress)
        bar.stage("loading the model")
        bar.update(Tally(done=1234, errors={"empty": 2}, reviewed=5), 0.25)
        task = progress.tasks[0]
        assert (task.completed, task.total) == (0.25, 1.0)
        assert task.description == "1,234 records, 2 failed, 5 to review"
        bar.update(Tally(), None)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (41, "0:41"), (725, "12:05"), (12_000, "3:20:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert meter.duration(seconds) == text
