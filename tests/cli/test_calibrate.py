"""edgekit calibrate, and what edgekit build makes of its file, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.converters.gguf import imatrix
from tests.cli.test_commands import edgekit
from tests.models import attention_modules, llama_config, lora_arrays, write_adapter, write_llama

SIZES = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/, lora/, a task and a project file."""
    folder = tmp_path_factory.mktemp("tiny")
    write_llama(folder / "base", **SIZES)
    write_adapter(folder / "lora", lora_arrays(llama_config(**SIZES), attention_modules(1)))
    records = [{"text": f"a table for {n}", "expected": {"people": str(n)}} for n in range(20)]
    (folder / "task.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "prompt.txt").write_text("Find people: {text}\n")
    (folder / "edgekit.toml").write_text(
        'name = "tiny"\nbase = "base"\nquantizations = ["IQ2_XXS"]\ncalibration = "task.jsonl"\n'
        '[[adapters]]\npath = "lora"\n[prompt]\nfile = "prompt.txt"\n'
    )
    return folder


def test_calibrate_then_build(tiny: Path, tmp_path: Path) -> None:
    given = [tiny / "base", "--adapter", tiny / "lora"]
    prompted = ["--data", tiny / "task.jsonl", "--prompt", tiny / "prompt.txt", "-o", tmp_path / "m.gguf"]
    found = json.loads(edgekit("calibrate", *given, *prompted, "--json"))
    assert set(found) == {"imatrix", "weights", "tokens", "sequences", "tokens_sha256"}
    matrix = imatrix.read(tmp_path / "m.gguf")
    assert matrix.tokens == imatrix.Tokens(found["tokens"], found["tokens_sha256"])
    assert (found["weights"], found["sequences"]) == (7, 20)
    calibrated = ["--calibration", tmp_path / "m.gguf"]
    edgekit("build", *given, "--quant", "IQ2_XXS", *calibrated, "-o", tmp_path / "dist", "--name", "tiny")
    # The project file says the same in one go.
    edgekit("build", "--project", tiny / "edgekit.toml", "-o", tmp_path / "again")
    one, other = (tmp_path / place / "tiny-iq2_xxs" / "model.gguf" for place in ("dist", "again"))
    assert one.read_bytes()[-50_000:] == other.read_bytes()[-50_000:]
    calibration = json.loads((other.parent / "manifest.json").read_text())["provenance"]["calibration"]
    assert (calibration["name"], calibration["tokens_sha256"]) == ("task.jsonl", found["tokens_sha256"])


def test_a_project_says_what_to_calibrate(tiny: Path, tmp_path: Path) -> None:
    arguments = ["calibrate", "--project", tiny / "edgekit.toml", "--data", tiny / "task.jsonl"]
    said = edgekit(*arguments, "--chunk", "64", "--chunks", "3", cwd=tmp_path)
    assert said.startswith("imatrix.gguf: 7 weights, measured over ") and "--calibration imatrix.gguf" in said
    assert [path.name for path in tmp_path.iterdir()] == ["imatrix.gguf"]
    assert "exists already" in edgekit(*arguments, code=1, cwd=tmp_path)
    edgekit(*arguments, "--chunk", "64", "--force", "--run-as", "f16", cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["base"], "Missing option '--data'"),
        (["base", "--data", "d", "--project", "p"], "two ways"),
        (["--adapter", "a", "--data", "d"], "go with a BASE"),
        (["base", "--data", "d", "--run-as", "Q4_0"], "Invalid value for '--run-as'"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str) -> None:
    assert said in edgekit("calibrate", *arguments, code=2)
