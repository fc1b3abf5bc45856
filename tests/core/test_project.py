"""edgekit.toml and the arguments that say the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.errors import InputError
from edgekit.project import BuildSpec, parse_adapter, read_project
from edgekit.template import template
from tests.conftest import ROOT

FULL = """
name = "x"
version = "1.2"
counter = 3
base = "b"
out = "o"
quantizations = ["F16"]
licence = "MIT"
[[adapters]]
path = "one"
weight = 0.5
[[adapters]]
path = "two"
[prompt]
template = "Say {text}"
system = "S"
schema = "schema.json"
[tensor_types]
"ffn" = "q8_0"
"""


def write(folder: Path, text: str) -> Path:
    (folder / "schema.json").write_text('{"type": "object"}')
    path = folder / "edgekit.toml"
    path.write_text(text)
    return path


def test_every_key_arrives(tmp_path: Path) -> None:
    spec = read_project(write(tmp_path, FULL), force=True, threads=3)
    assert spec == BuildSpec(
        base=tmp_path / "b", out=tmp_path / "o", name="x", version="1.2", counter=3, quantizations=("F16",),
        adapters=((tmp_path / "one", 0.5), (tmp_path / "two", 1.0)), tensor_types=("ffn=q8_0",), licence="MIT",
        prompt="Say {text}", system="S", output_schema={"type": "object"}, threads=3, force=True,
    )  # fmt: skip


def test_the_template_of_init_is_readable(tmp_path: Path) -> None:
    spec = read_project(write(tmp_path, template("my-model", "base", "lora")))
    assert spec.name == "my-model" and spec.adapters == ((tmp_path / "lora", 1.0),)
    every_line = template("m", "b", "a").replace("# template", "template").replace("# licence", "licence")
    assert read_project(write(tmp_path, every_line)).prompt == "Extract people and date:\n{text}"
    calibrated = template("m", "b", "a").replace("# calibration", "calibration")
    assert read_project(write(tmp_path, calibrated)).calibration == tmp_path / "train.jsonl"


def test_the_example_says_what_it_builds() -> None:
    spec = read_project(ROOT / "examples" / "restaurant" / "edgekit.toml")
    assert spec.prompt == "Extract restaurant: people, date, time, first_name, last_name\n{text}"
    assert set((spec.output_schema or {})["properties"]) == {
        "people",
        "date",
        "time",
        "first_name",
        "last_name",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'x'", "base"),
        ("name = 'x'\nbase = 'b'\nquantisations = []", "quantisations"),
        ("name = 'x'\nbase = 3", "base"),
        ("name = 'x'\nbase = 'b'\n[[adapters]]\nweight = 1", "path"),
        ("name = ", "project file"),
        ("name = 'x'\nbase = 'b'\n[prompt]\ntemplate = 'no place'", "no place for the input"),
        ("name = 'x'\nbase = 'b'\n[prompt]\ntemplate = '{text}'\nfile = 'p'", "given twice"),
        ("name = 'a/b'\nbase = 'b'", "not a name"),
        ("name = '..'\nbase = 'b'", "not a name"),
        ("name = 'x'\nbase = 'b'\nquantizations = []", "no quantization"),
        ("name = 'x'\nbase = 'b'\nimatrix = 'i'\ncalibration = 'c'", "matrix is given twice"),
        ("name = 'x'\nbase = 'b'\n[prompt]\nschema = 'missing.json'", "missing"),
    ],
)
def test_unsound_projects(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_project(write(tmp_path, text))
    assert message in str(caught.value)


def test_a_missing_project_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        read_project(tmp_path / "edgekit.toml")


def test_adapters_with_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:2").mkdir()
    assert parse_adapter("lora") == (Path("lora"), 1.0)
    assert parse_adapter("lora:0.5") == (Path("lora"), 0.5)
    assert parse_adapter("lora:-1") == (Path("lora"), -1.0)
    assert parse_adapter("odd:2") == (Path("odd:2"), 1.0)
    assert parse_adapter("odd:2:0.25") == (Path("odd:2"), 0.25)
    assert parse_adapter("c:name") == (Path("c:name"), 1.0)
    for weight in ("nan", "inf", "1e9"):
        with pytest.raises(InputError, match="out of range"):
            parse_adapter(f"lora:{weight}")


def test_threads_below_one(tmp_path: Path) -> None:
    spec = read_project(write(tmp_path, FULL))
    with pytest.raises(InputError, match="needs a thread"):
        replace(spec, threads=0)


@pytest.mark.parametrize("weight", ["nan", "inf", "1e300"])
def test_weights_of_a_project_are_numbers(tmp_path: Path, weight: str) -> None:
    text = f'name = "a"\nbase = "b"\n[[adapters]]\npath = "c"\nweight = {weight}\n'
    (tmp_path / "edgekit.toml").write_text(text)
    with pytest.raises(InputError, match="out of range"):
        read_project(tmp_path / "edgekit.toml")
