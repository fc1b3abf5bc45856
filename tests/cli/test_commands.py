"""Every command as a user types it: what it prints, its JSON, and its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.cli import COMMANDS
from tests.conftest import ADAPTER, BASE, ROOT
from tests.models import attention_modules, llama_config, lora_arrays, write_adapter, write_llama


def edgekit(*arguments: object, code: int = 0, cwd: Path | None = None) -> str:
    """Run the command line; its output, both streams, after checking the exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/ and lora/."""
    folder = tmp_path_factory.mktemp("tiny")
    write_llama(folder / "base")
    write_adapter(folder / "lora", lora_arrays(llama_config(), attention_modules(2)))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    assert "edgekit " + command in edgekit(command, "--help").split("xample", 1)[1]


def test_build_from_arguments(tiny: Path, tmp_path: Path) -> None:
    arguments = [
        "build",
        tiny / "base",
        "--adapter",
        f"{tiny / 'lora'}:0.5",
        "--quant",
        "q8_0",
        "--quant",
        "Q4_0",
    ]
    built = json.loads(edgekit(*arguments, "-o", tmp_path, "--json"))
    assert [one["quantization"] for one in built] == ["Q8_0", "Q4_0"]
    judged = {"published", "gates", "quality", "speed"}
    assert set(built[0]) == {"bundle", "name", "quantization", "target", "size", "memory", "seconds"} | judged
    assert built[0]["size"] == (tmp_path / "lora-q8_0" / "model.gguf").stat().st_size
    assert "exists already" in edgekit(*arguments, "-o", tmp_path, code=1)
    assert "lora-q8_0" in edgekit(*arguments, "-o", tmp_path, "--force")


def test_build_from_a_project_file(tiny: Path, tmp_path: Path) -> None:
    edgekit("init", "--name", "mine", "--base", tiny / "base", "--adapter", tiny / "lora", cwd=tmp_path)
    assert "exists already" in edgekit("init", code=1, cwd=tmp_path)
    edgekit("build", cwd=tmp_path)
    assert sorted(p.name for p in (tmp_path / "dist").iterdir()) == ["mine-q4_k_m", "mine-q8_0"]
    edgekit("build", "-o", "other", cwd=tmp_path)
    assert (tmp_path / "other" / "mine-q8_0" / "model.gguf").read_bytes() == (
        tmp_path / "dist" / "mine-q8_0" / "model.gguf"
    ).read_bytes()


def test_usage_errors_are_exit_code_2(tiny: Path, tmp_path: Path) -> None:
    edgekit("build", tiny / "base", "--project", "x", code=2)
    edgekit("build", "--imatrix", "x.gguf", code=2, cwd=tmp_path)
    edgekit("nonsense", code=2)
    edgekit("inspect", tiny / "base", "--base", tiny / "base", code=2)


def test_bad_input_is_one_message_and_exit_code_1(tiny: Path, tmp_path: Path) -> None:
    assert "edgekit.toml: the file is missing" in edgekit("build", code=1, cwd=tmp_path)
    output = edgekit("build", tmp_path / "nowhere", code=1)
    assert output.startswith("error: ") and "nowhere: the checkpoint is missing" in output
    assert "did you mean" in edgekit("build", tiny / "base", "--quant", "Q4_K_L", code=1)
    assert "not a bundle" in edgekit("verify", tiny / "base", code=1)
    assert "nothing is here" in edgekit("inspect", tmp_path / "nowhere", code=1)
    assert "neither a bundle" in edgekit("inspect", tmp_path, code=1)


def test_inspect_an_adapter(tmp_path: Path) -> None:
    output = edgekit("inspect", ADAPTER, "--base", BASE)
    assert "LoRA, 622,592 parameters" in output and "down_proj" in output and "yes" in output
    found = json.loads(edgekit("inspect", ADAPTER, "--base", BASE, "--json"))
    assert found["fits"] is True and found["problems"] == [] and found["base_it_names"] == "tiny-extract"
    assert {"module": "down_proj", "count": 8, "rank": 16, "scale": 2.0, "shape": [256, 768]} in found[
        "trains"
    ]
    other = write_llama(tmp_path / "other")
    output = edgekit("inspect", ADAPTER, "--base", other, code=1)
    assert "problem: " in output and "would not merge" in output


def test_inspect_a_checkpoint(tiny: Path) -> None:
    found = json.loads(edgekit("inspect", BASE, "--json"))
    assert found["kind"] == "checkpoint" and found["parameters"] == 7_344_384 and found["converts"] is True
    assert found["tied_embeddings"] is True and found["dtypes"] == {"BF16": 74}
    assert "7,344,384 parameters" in edgekit("inspect", BASE)


def test_inspect_a_bundle_and_its_gguf(bundles: Path) -> None:
    folder = bundles / "restaurant-q4_k_m"
    found = json.loads(edgekit("inspect", folder, "--json"))
    assert found["quantization"] == "Q4_K_M" and found["artifact"]["kind"] == "gguf"
    assert found["artifact"]["keys"]["general.architecture"] == "llama"
    assert "Q4_K" in edgekit("inspect", folder / "model.gguf") and "restaurant" in edgekit("inspect", folder)


def test_verify(bundles: Path) -> None:
    folder = bundles / "restaurant-q4_k_m"
    assert "all digests match" in edgekit("verify", folder)
    found = json.loads(edgekit("verify", folder, "--replay", "--json"))
    assert found["ok"] is True and found["problems"] == [] and found["replay"]["differences"] == []


def test_verify_says_what_is_wrong(tiny: Path, tmp_path: Path) -> None:
    edgekit("build", tiny / "base", "-o", tmp_path)
    folder = tmp_path / "base-q4_k_m"
    (folder / "stranger").write_text("x")
    assert "stranger" in edgekit("verify", folder, code=1)


def test_demo_needs_the_example(tmp_path: Path) -> None:
    assert "the example is not here" in edgekit("demo", code=1, cwd=tmp_path)


def test_demo_measures_base_against_merged(tmp_path: Path) -> None:
    example = tmp_path / "restaurant"
    shutil.copytree(ROOT / "examples" / "restaurant", example)
    lines = (example / "task" / "test.jsonl").read_text().splitlines()[:6]
    (example / "task" / "test.jsonl").write_text("\n".join(lines))
    found = json.loads(edgekit("demo", "--example", example, "-o", tmp_path / "out", "--json"))
    assert found["utterances"] == 6
    base, small, large = found["models"]
    assert (base["model"], small["model"], large["model"]) == (
        "base alone Q8_0", "merged Q4_K_M", "merged Q8_0",
    )  # fmt: skip
    assert base["field_f1"] < 0.5 < large["field_f1"] and small["size"] < large["size"]
    assert large["schema_valid"] == 1.0 and len(large["answers"]) == 6 and large["records_per_second"] > 0
    assert (tmp_path / "out" / "restaurant-q4_k_m" / "manifest.json").exists()
    table = edgekit("demo", "--example", example)
    assert "field F1" in table and "First 5 of 6" in table and "merged Q8_0" in table


def test_an_adapter_as_a_file_of_its_own(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "lora.gguf"
    arguments = ["convert-adapter", tiny / "lora", "--base", tiny / "base", "-o", out]
    written = json.loads(edgekit(*arguments, "--type", "f16", "--json"))
    assert written == {
        "file": str(out), "size": out.stat().st_size, "architecture": "llama", "alpha": 8.0, "tensors": 8
    }  # fmt: skip
    assert "exists already" in edgekit(*arguments, code=1)
    assert "for llama bases" in edgekit(*arguments, "--force")


def test_models_lists_what_the_readme_shows() -> None:
    from edgekit.converters.gguf.checked import checked
    from tests.benchmarks.families import BEGIN, END, markdown

    listed = json.loads(edgekit("models", "--json"))
    assert [one["model"] for one in listed] == [one.model for one in checked()]
    shown = edgekit("models")
    assert all(one.model in shown for one in checked()) and "--with-llama-cpp" in shown
    readme = (ROOT / "README.md").read_text()
    assert readme.partition(BEGIN)[2].partition(END)[0].strip() == markdown(list(checked()))
