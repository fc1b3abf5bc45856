"""edgekit plan and edgekit targets as a user types them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edgekit.profiles import devices
from edgekit.project import read_project
from tests.cli.test_commands import edgekit
from tests.conftest import ADAPTER, BASE, ROOT
from tests.models import write_llama

PAIR = ("--target", "laptop-8gb", "--target", "raspberry-pi-5-8gb")


def test_targets() -> None:
    lines = edgekit("targets").splitlines()
    listed = [line.split()[0] for line in lines[1 : lines.index("")]]
    assert listed == devices.names() and max(map(len, map(str.rstrip, lines[: len(listed) + 1]))) <= 80
    assert [one["name"] for one in json.loads(edgekit("targets", "--json"))] == devices.names()


def test_the_page_shows_what_is_printed_and_its_files_are_sound(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "targets.md").read_text()
    shown = "\n".join(line.rstrip() for line in edgekit("targets").splitlines())
    assert f"$ edgekit targets\n{shown}\n```" in page
    board, project = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my-board.toml").write_text(board)
    (tmp_path / "edgekit.toml").write_text(project)
    found = read_project(tmp_path / "edgekit.toml").devices
    assert [(one.name, one.context, one.budget_gb) for one in found] == [
        ("laptop-16gb", 2048, 9.5),
        ("gateway", 4096, 3),
    ]


def test_one_target_is_its_file(tmp_path: Path) -> None:
    file = ROOT / "profiles" / "raspberry-pi-5-8gb.toml"
    assert edgekit("targets", "raspberry-pi-5-8gb") == file.read_text()
    assert "with what" not in edgekit("targets", "industrial-pc-4gb")  # whose comment speaks of extends
    assert json.loads(edgekit("targets", "raspberry-pi-5-8gb", "--json"))["cpu"]["simd"] == [
        "NEON",
        "dotprod",
    ]
    (tmp_path / "mine.toml").write_text('extends = "raspberry-pi-5-8gb"\ncontext = 99\n')
    shown = edgekit("targets", "mine.toml", cwd=tmp_path)
    assert "with what it extends" in shown and "99" in shown and "Cortex-A76" in shown


def test_a_plan_for_two_targets() -> None:
    shown = edgekit("plan", BASE, "--adapter", ADAPTER, *PAIR)
    assert shown.count("→  Q8_0") == 2 and shown.count("7.95 MB") == 4  # MXFP4_MOE is Q8_0 without experts
    assert "laptop-8gb: office laptop" in shown and "4 GB for the model on 4 cores with AVX2" in shown
    assert (
        max(
            len(line.rstrip())
            for line in shown.splitlines()
            if "MB" in line and " at " not in line and " with " not in line
        )
        <= 80
    )


def test_the_rows_of_json() -> None:
    rows = json.loads(edgekit("plan", BASE, *PAIR, "--json"))
    assert {row["target"] for row in rows} == {"laptop-8gb", "raspberry-pi-5-8gb"}
    keys = "target format quantization size_bytes exact memory_bytes context decode_tps fits chosen reasons"
    assert {" ".join(row) for row in rows} == {keys}
    assert [(row["quantization"], row["fits"]) for row in rows if row["chosen"]] == [("Q8_0", True)] * 2
    assert list(rows[0]["memory_bytes"]) == ["512", "1024"] and all(row["reasons"] for row in rows)


def test_nothing_fits_is_exit_1_and_says_what_would(tmp_path: Path) -> None:
    for name, key in (("small", "budget_gb = 0.01"), ("picky", "min_tps = 99999")):
        (tmp_path / f"{name}.toml").write_text(f'extends = "laptop-8gb"\n{key}\n')
    both = ("--target", tmp_path / "small.toml", "--target", tmp_path / "picky.toml")
    shown = edgekit("plan", BASE, *both[:2], code=1)
    assert (
        "error: nothing of this model is good enough for small" in shown
        and "what would do: budget_gb = 0.08" in shown
    )
    shown = edgekit("plan", BASE, *both, "--target", "laptop-8gb", code=1)
    assert "2 targets get nothing" in shown and "min_tps = " in shown and "→  Q8_0" in shown


def test_the_project_file_names_targets(tmp_path: Path) -> None:
    write_llama(tmp_path / "base")
    project = '[targets.laptop-8gb]\ncontext = 128\n[targets.kiosk]\nextends = "raspberry-pi-4-4gb"\n'
    (tmp_path / "edgekit.toml").write_text(f'name = "x"\nbase = "base"\n{project}')
    rows = json.loads(edgekit("plan", "--json", cwd=tmp_path))
    assert {(row["target"], row["context"]) for row in rows} == {("laptop-8gb", 128), ("kiosk", 256)}
    rows = json.loads(edgekit("plan", "--target", "laptop-8gb", "--json", cwd=tmp_path))
    assert {(row["target"], row["context"]) for row in rows} == {("laptop-8gb", 128)}
    (tmp_path / "edgekit.toml").write_text(f'name = "x"\nbase = "base"\n{project}min_tpz = 3\n')
    shown = edgekit("plan", code=1, cwd=tmp_path)
    assert "line 7: no key is called targets.kiosk.min_tpz" in shown and "did you mean min_tps?" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((BASE, "--target", "laptop8"), 1, "did you mean laptop-8gb"),
        ((BASE, "--target", "nowhere.toml"), 1, "nowhere.toml: the file is missing"),
        ((BASE,), 2, "name a device: --target laptop-8gb"),
        ((BASE, "--project", "x.toml", "--target", "laptop-8gb"), 2, "two ways to say what to plan"),
        (("--adapter", ADAPTER, "--target", "laptop-8gb"), 2, "go with a MODEL"),
        (("--target", "laptop-8gb"), 1, "edgekit.toml: the file is missing"),
        (("nowhere", "--target", "laptop-8gb"), 1, "nowhere: the checkpoint is missing"),
        ((BASE, "--target", "laptop-8gb", "--target", "laptop-8gb"), 1, "named twice"),
    ],
)
def test_bad_input(arguments: tuple[object, ...], code: int, said: str, tmp_path: Path) -> None:
    assert said in edgekit("plan", *arguments, code=code, cwd=tmp_path)


def test_targets_with_bad_input(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('extends = "laptop-8gb"\nmemory_gb = -1\n')
    shown = edgekit("targets", "bad.toml", code=1, cwd=tmp_path)
    assert "bad.toml: line 2: memory_gb can't be used" in shown and "found: -1" in shown
