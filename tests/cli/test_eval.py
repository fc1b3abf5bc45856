"""edgekit eval as a user types it, with the real small model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli.eval import command
from edgekit.errors import GateError
from tests.cli.test_bad_input import KINDS, refused, same_signals  # noqa: F401
from tests.cli.test_commands import edgekit
from tests.conftest import ADAPTER, BASE, ROOT

TASK = ROOT / "examples" / "restaurant" / "task" / "test.jsonl"
TEXT = ROOT / "LICENSE"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all tests here, and none of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 labelled utterances of the example."""
    path = tmp_path_factory.mktemp("task") / "labelled.jsonl"
    path.write_text("".join(TASK.read_text().splitlines(keepends=True)[:60]))
    return path


def test_bundles_beside_a_reference(bundles: Path, task: Path, tmp_path: Path) -> None:
    two = bundles / "restaurant-q8_0", bundles / "restaurant-q4_k_m"
    on = (
        "--reference",
        BASE,
        "--adapter",
        ADAPTER,
        "--task",
        task,
        "--text",
        TEXT,
        "--ctx",
        128,
        "--threads",
        1,
    )
    gates = (
        "--gate",
        "kld <= 0.002",
        "--gate",
        "f1 >= 0.5",
        "--gate",
        "size <= 2GB",
        "--gate",
        "decode_tps >= 1",
    )
    out = tmp_path / "report.json"
    said = edgekit("eval", *two, *on, *gates, "--json", out, code=3)
    assert (
        "passed  restaurant-q8_0: kld <= 0.002" in said and "FAILED  restaurant-q4_k_m: kld <= 0.002" in said
    )
    assert "1 gate failed" in said and f"written: {out}" in said
    for word in ("reading 33 chunks", "answering 60 records", "measuring", f"reference: {BASE} + {ADAPTER}, built in F16",
                 "2,079 tokens scored", "same top", "last_name", "together (micro)", "p (McNemar)", "tok/s"):  # fmt: skip
        assert word in said
    report = json.loads(out.read_text())
    assert report["passed"] is False and [row["label"] for row in report["bundles"]] == [
        one.name for one in two
    ]
    small, smaller = (row["measured"] for row in report["bundles"])
    assert small["kld"] < 0.002 < smaller["kld"] < 0.05 and smaller["size"] < small["size"]
    assert small["f1"] > 0.7 and small["decode_tps"] > 1 and small["memory"] > small["size"]

    # Once more, from what is kept: the same document on standard output, and gates that pass.
    again = edgekit("eval", *two, *on, "--gate", "kld <= 0.05", "--no-speed", "--json", "-")
    rows = json.loads(again)["bundles"]
    assert [row["measured"]["kld"] for row in rows] == [small["kld"], smaller["kld"]]
    assert [row["task"] for row in rows] == [row["task"] for row in report["bundles"]]


def test_a_failed_row_is_red(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    models = [str(bundles / f"restaurant-{kind}" / "model.gguf") for kind in ("q4_k_m", "q8_0")]
    monkeypatch.chdir(bundles)
    on = ["--text", str(TEXT), "--chunks", "2", "--no-speed", "--threads", "1", "--gate", "size <= 6MB"]
    done = CliRunner().invoke(command, [*models, *on], color=True)
    assert isinstance(done.exception, GateError)
    red = [line for line in done.output.splitlines() if "\x1b[31m" in line]
    assert len(red) == 2 and all("restaurant-q8_0/model.gguf" in line for line in red)
    assert "FAILED" in red[1] and "passed  restaurant-q4_k_m/model.gguf: size <= 6MB" in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "pass --task, --text, or both"),
        (("--text", TEXT, "--adapter", ADAPTER), 2, "pass --reference"),
        (("--text", TEXT, "--gate", "f1 >= 0.8"), 1, "f1 takes a task"),
        (("--text", TEXT, "--gate", "f1 => 0.8"), 1, "can't read the gate"),
        (("--text", TEXT, "--no-speed", "--gate", "decode_tps >= 1"), 1, "leave out --no-speed"),
        (("--text", TEXT, "--ctx", 4096), 1, "longer than the model's context"),
        (("--text", TASK.parent / "nothing"), 1, "is missing"),
        (("--text", TEXT, "--reference", ROOT / "tests" / "data" / "stories260k"), 1, "another tokenizer"),
        (("--task", TEXT), 1, "line 1"),
        (("--task", TASK, "--gate", "accuracy >= 0.5"), 1, "no field of the schema takes one of a few labels"),
        (("--text", TEXT, "--reference-type", "Q8_0"), 2, "Q8_0"),
    ],
)  # fmt: skip
def test_bad_input(bundles: Path, arguments: tuple[object, ...], code: int, said: str) -> None:
    assert said in edgekit("eval", bundles / "restaurant-q4_k_m", *arguments, code=code)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_wrong_paths(
    bundles: Path,
    kind: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = kind(tmp_path)
    for option in ("--task", "--text", "--reference"):
        on = [option, bad, *(["--text", TEXT] if option == "--reference" else [])]
        message = refused(["eval", bundles / "restaurant-q4_k_m", *on], monkeypatch, capsys)
        assert message.startswith("error: ")
