"""edgekit eval as a user types it, with the real small model."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli.eval import command
from edgekit.errors import GateError
from edgekit.gates import METRICS
from tests.cli.test_bad_input import KINDS, refused, same_signals  # noqa: F401
from tests.cli.test_commands import edgekit
from tests.conftest import ADAPTER, ROOT

TASK = ROOT / "examples" / "restaurant" / "task" / "test.jsonl"
TEXT = ROOT / "LICENSE"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all tests here, and none of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield


def words(text: str) -> list[str]:
    """Lines with one sign for every figure, and for any distance: figures are those of a processor."""
    figure = re.compile(r"[-+±]?\d[\d,.]*(?:e[-+]\d+)?")
    lines = (" ".join(figure.sub("#", line).split()) for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("other programs used")]


def test_the_page_shows_what_is_printed(bundles: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    found = re.search(
        r"^```\n\$ edgekit (eval .*?[^\\])\n(.*?)\n\$ echo \$\?\n3\n```$", page, re.MULTILINE | re.DOTALL
    )
    assert found
    (tmp_path / "dist").symlink_to(bundles)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "LICENSE").symlink_to(TEXT)
    arguments = shlex.split(found[1].replace("\\\n", ""))
    said = edgekit(*arguments, "--threads", 1, "-o", "report.json", code=3, cwd=tmp_path)
    printed, _, rest = said.partition("\nwritten: report.json\n")
    assert words(printed) == words(found[2])
    for word in ("reading 33 chunks", "answering 200 records", "measuring", "1 gate failed"):
        assert word in rest
    for name, metric in METRICS.items():
        assert f"| `{name}` | {metric.what} |" in page

    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] is False
    small, smaller = (row["measured"] for row in report["bundles"])
    assert small["kld"] < 0.002 < smaller["kld"] < 0.05 and smaller["size"] < small["size"]
    assert small["f1"] > 0.7 and small["decode_tps"] > 1 and small["memory"] > small["size"]

    # Once more, from what is kept: the same document on standard output, and gates that pass.
    same = [
        one
        for one in arguments
        if one not in ("--gate", "f1_drop <= 0.01", "kld <= 0.002", "decode_tps >= 10")
    ]
    again = json.loads(edgekit(*same, "--gate", "kld <= 0.05", "--no-speed", "--json", cwd=tmp_path))
    assert [row["measured"]["kld"] for row in again["bundles"]] == [small["kld"], smaller["kld"]]
    assert [row["task"] for row in again["bundles"]] == [row["task"] for row in report["bundles"]]


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
        (("--text", TEXT, "-o", TEXT / "report.json"), 1, "can't write here"), (("--text", TEXT, "-o", ROOT), 1, "exists already"),
    ],
)  # fmt: skip
def test_bad_input(bundles: Path, arguments: tuple[object, ...], code: int, said: str) -> None:
    message = edgekit("eval", bundles / "restaurant-q4_k_m", *arguments, code=code)
    assert said in message and "reading" not in message and "answering" not in message


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
