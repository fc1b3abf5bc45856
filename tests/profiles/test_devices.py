"""Devices to build for: those that ship, the user's own, and every way to write one wrong."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.profiles import devices
from edgekit.profiles.tables import Place
from tests.conftest import ROOT

SHIPPED = [
    "browser-webgpu",
    "datacenter-cuda-80gb",
    "industrial-pc-4gb",
    "jetson-agx-orin-64gb",
    "jetson-orin-nano-8gb",
    "laptop-16gb",
    "laptop-8gb",
    "macbook-16gb",
    "macbook-8gb",
    "macbook-max-64gb",
    "raspberry-pi-4-4gb",
    "raspberry-pi-5-8gb",
    "rtx-3060-12gb",
    "rtx-4090-24gb",
    "snapdragon-x-16gb",
]
FIGURE = re.compile(r"(memory_gb|budget_gb|bandwidth_gb_s|min_tps) = [\d.]+ *(#.{12,})?")


def written(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_these_ship_and_are_sound() -> None:
    assert devices.names() == SHIPPED
    found = [devices.load(name) for name in SHIPPED]
    assert [one.name for one in found] == SHIPPED
    assert all(one.budget < 1e9 * one.memory_gb or one.gpu for one in found)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_figure_has_its_source_beside_it(name: str) -> None:
    text = (ROOT / "profiles" / f"{name}.toml").read_text()
    figures = [FIGURE.match(line) for line in text.splitlines() if FIGURE.match(line)]
    assert len(figures) >= 4 and all(one and one[2] for one in figures)


def test_they_are_in_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["package-data"]["edgekit.profiles"] == ["*.toml"]


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    whole = (ROOT / "profiles" / "laptop-8gb.toml").read_text()
    mine = devices.load(written(tmp_path, whole.replace("budget_gb = 4.0", "budget_gb = 3")))
    assert (mine.name, mine.budget, mine.context) == ("mine", 3_000_000_000, 4096)
    less = devices.load(
        written(tmp_path, 'extends = "rtx-3060-12gb"\ncontext = 512\n[gpu]\nbandwidth_gb_s = 1')
    )
    card = devices.load("rtx-3060-12gb").gpu
    assert card and less.gpu and less.context == 512
    assert (less.gpu.name, less.gpu.memory_gb, less.gpu.bandwidth_gb_s) == (card.name, card.memory_gb, 1)
    written(tmp_path, 'extends = "mine.toml"\nmin_tps = 1', "other")
    other = devices.load(str(tmp_path / "other.toml"))
    assert (other.name, other.context, other.min_tps) == ("other", 512, 1)


def test_a_project_changes_a_target(tmp_path: Path) -> None:
    written(tmp_path, 'extends = "laptop-8gb"\nmin_tps = 1')
    project = written(tmp_path, "[targets.laptop-8gb]\ncontext = 99\n", "edgekit")
    found = devices.adjusted("laptop-8gb", {"context": 99}, project)
    assert (found.name, found.context, found.budget_gb) == ("laptop-8gb", 99, 4.0)
    assert devices.adjusted("kiosk", {"extends": "mine.toml"}, project).min_tps == 1
    assert devices.adjusted("kiosk", {"extends": "laptop-16gb"}, project).budget_gb == 9.5
    with pytest.raises(InputError, match="there is no|has no"):
        devices.adjusted("kiosk", {"context": 99}, project)
    project.write_text('[targets."laptop-8gb"]\n\n# less\ncontext = -1\n')
    with pytest.raises(InputError, match=r"line 4: targets.laptop-8gb.context can't be used") as raised:
        devices.adjusted("laptop-8gb", {"context": -1}, project)
    assert raised.value.path == str(project) and raised.value.expected == "a whole number >= 1"


@pytest.mark.parametrize(
    ("text", "what", "found", "expected"),
    [
        ("budget_gb = -2", "line 2: budget_gb can't be used", "-2", "a number > 0"),
        ("budget_gb = 0", "line 2: budget_gb can't be used", "0", "a number > 0"),
        ("memory_gb = -8.3", "line 2: memory_gb can't be used", "-8.3", "a number > 0"),
        ("\n# more\nbudget_gb = 9", "line 4: budget_gb can't be used", "9.0", "no more than memory_gb, 8.3"),
        ("min_tps = inf", "line 2: min_tps can't be used", "inf", "a number below a million"),
        ("min_tps = nan", "line 2: min_tps can't be used", "nan", "a number > 0"),
        (f"min_tps = 1{'0' * 400}", "line 2: min_tps can't be used", "10000", "a number that isn't out of range"),
        ('budget_gb = "4 GB"', "line 2: budget_gb can't be used", "'4 GB'", "a number"),
        ("context = 1.5", "line 2: context can't be used", "1.5", "a whole number"),
        ("context = 2026-01-01", "line 2: context can't be used", "datetime.date", "a whole number"),
        ("buget_gb = 1", "line 2: no key is called buget_gb", None, "budget_gb"),
        ("[gpu]\nname = 'x'\napi='cuda'\nspeed = 1", "line 5: no key is called gpu.speed", None, "bandwidth_gb_s"),
        ("[gpu]\nname = 'x'\n\napi='cudda'", "line 5: gpu.api can't be used", "'cudda'", "one of cuda, rocm"),
        ("[gpu]\nname = 'x'", "the table gpu has no api", None, "it, or extends"),
        ("[gpu]\nname='x'\napi='cuda'\nmemory_gb=9", "gpu.bandwidth_gb_s can't be used", "None", "GPU's own memory"),
        ("[gpu]\nname='x'\napi='cuda'\nmemory_gb=3\nbandwidth_gb_s=9", "budget_gb can't be used", "4.0", "gpu.memory_gb, 3"),
        ("cpu = 4", "line 2: cpu can't be used", "4", "a table"),
        ('cpu.simd = ["avx2"]', "line 2: cpu.simd can't be used", "avx2", "AVX2"),
        ("cpu = {name = 'x', cores = 0}", "line 2: cpu.cores can't be used", "0", "a whole number >= 1"),
        ('formats = ["gguf", "gguf"]', "line 2: formats can't be used", "gguf", "each format once"),
        ('formats = ["exe"]', "line 2: formats can't be used", "exe", "one of gguf, onnx, gptq"),
        ("formats = []", "line 2: formats can't be used", "[]", "a list of length >= 1"),
        ('architecture = "wasm32"', "line 2: architecture can't be used", "wasm32", "in a browser"),
        ('name = "x"', "line 2: name can't be used", "x", "called as its file"),
        ("x = = 1", "not readable as TOML", "line 2, column 5", None),
        ("a = 1\na = 2", "not readable as TOML", "overwrite", None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_line_and_key(
    text: str, what: str, found: str | None, expected: str | None, tmp_path: Path
) -> None:
    path = written(tmp_path, f'extends = "laptop-8gb"\n{text}\n')
    with pytest.raises(InputError) as raised:
        devices.load(path)
    error = raised.value
    assert error.path == str(path) and what in error.what
    assert (found or "") in (error.found or "") and (expected or "") in (error.expected or "")


def test_what_a_file_extends_is_named_where_it_is_wrong(tmp_path: Path) -> None:
    below = written(tmp_path, 'extends = "laptop-8gb"\n\ncontext = 0', "below")
    with pytest.raises(InputError, match="line 3: context") as raised:
        devices.load(written(tmp_path, 'extends = "below.toml"\ncontext = 9'))
    assert raised.value.path == str(below)
    with pytest.raises(InputError, match="line 1: extends can't be used"):
        devices.load(written(tmp_path, 'extends = "mine.toml"'))
    with pytest.raises(InputError, match="line 1: extends can't be used"):
        devices.load(written(tmp_path, "extends = 3"))
    for number in range(9):
        written(tmp_path, f'extends = "{number + 1}.toml"', str(number))
    written(tmp_path, 'extends = "laptop-8gb"', "9")
    with pytest.raises(InputError, match="extends can't be used"):
        devices.load(tmp_path / "0.toml")


@pytest.mark.parametrize(
    ("asked", "near"),
    [("laptop8", "laptop-8gb"), ("rpi5", "raspberry-pi-5-8gb"), ("RTX 4090", "rtx-4090-24gb"), ("jetson", "jetson-orin-nano-8gb")],
)  # fmt: skip
def test_an_unknown_name_brings_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(InputError, match="no target is called") as raised:
        devices.load(asked)
    assert near in str(raised.value.next_step).split("?")[0]
    assert all(name in str(raised.value.expected) for name in SHIPPED)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the file is missing"):
        devices.load(tmp_path / "none.toml")
    with pytest.raises(InputError, match="is a folder"):
        devices.load(f"{tmp_path}/")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        devices.load(tmp_path / "b.toml")
    with pytest.raises(InputError, match="too large"):
        devices.load(written(tmp_path, "#" * 100_000))
    with pytest.raises(InputError, match="not a name for a target"):
        devices.load(written(tmp_path, 'extends = "laptop-8gb"', "my board"))


@given(
    st.text(max_size=60), st.sampled_from(["budget_gb", "cpu", "gpu.api", "extends", "formats", "context"])
)
def test_any_text_is_a_device_or_an_error_of_ours(text: str, key: str) -> None:
    for content in (text, f"{key} = {text}", f'extends = "laptop-8gb"\n{key} = {text}'):
        try:
            data = tomllib.loads(content)
        except (tomllib.TOMLDecodeError, RecursionError):
            continue
        place = Place(Path("x.toml"), content)
        try:
            devices._device("x", data, place, ())
        except InputError as error:
            assert error.what


def test_lines_are_found_in_every_way_to_write_a_key() -> None:
    place = Place(Path("x"), 'a = 1\n"b c" = 2\n[t]  # table\n  k.m = 3\n[t."u v"]\nw = 4\n[[list]]\nw = 5\n')
    lines = {"a": 1, "b c": 2, "t.k.m": 4, "t.u v.w": 6, "t": 3, "z": None, "t.k.n": 3}
    assert {key: place.line(key) for key in lines} == lines
    assert Place(Path("x"), "[targets.y]\nz = 1", ("targets", "y")).line("z") == 2
