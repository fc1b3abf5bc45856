"""Bundles for other tools: what is written can be read as the tool does, and nothing that was changed is handed on."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import jsonschema
import pytest

from edgekit.bundle import Bundle
from edgekit.cli.export import NAMES
from edgekit.errors import BundleError, InputError, UnsupportedModelError
from edgekit.export import TOOLS, export
from edgekit.export.vllm import parallel
from edgekit.packed_folder import PackedFolder
from tests.cli.test_commands import edgekit
from tests.export import modelfile


@pytest.fixture(scope="module")
def bundle(bundles: Path) -> Path:
    return bundles / "restaurant-q4_k_m"


def changed(bundle: Path, to: Path, **changes: Any) -> Path:
    """A copy whose manifest says something else."""
    shutil.copytree(bundle, to)
    manifest = json.loads((to / "manifest.json").read_text())
    (to / "manifest.json").write_text(json.dumps(manifest | changes))
    return to


def test_the_command_knows_every_tool() -> None:
    assert tuple(TOOLS) == NAMES


def test_ollama(bundle: Path, tmp_path: Path) -> None:
    found = export(bundle, "ollama", tmp_path / "out")
    assert found.files == ["Modelfile", "model.gguf", "request.json"]
    commands = modelfile.read((tmp_path / "out" / "Modelfile").read_text())
    said = dict(commands)
    assert commands[0] == ("FROM", "./model.gguf") and (tmp_path / "out" / "model.gguf").is_file()
    assert ("PARAMETER stop", "<|eot_id|>") in commands
    assert said["PARAMETER temperature"] == "0" and said["PARAMETER num_ctx"] == "1024"
    golden = json.loads((bundle / "golden.json").read_text())
    assert len(golden["prompts"]) == 4
    for prompt in golden["prompts"]:
        expected = prompt["text"].removeprefix("<|begin_of_text|>")
        assert modelfile.execute(said["TEMPLATE"], prompt["messages"]) == expected
    request = json.loads((tmp_path / "out" / "request.json").read_text())
    schema = Bundle.open(bundle).manifest.output_schema
    assert request["format"] == schema and request["messages"][0]["content"].startswith("Extract restaurant")


def test_a_system_prompt_goes_along(bundle: Path, tmp_path: Path) -> None:
    system = 'Answer in "JSON".\n\tNothing else.'
    place = changed(bundle, tmp_path / "bundle", system=system, output_schema=None)
    export(place, "ollama", tmp_path / "ollama")
    said = dict(modelfile.read((tmp_path / "ollama" / "Modelfile").read_text()))
    assert said["SYSTEM"] == system and "PARAMETER temperature" not in said
    export(place, "lmstudio", tmp_path / "lmstudio")
    preset = next((tmp_path / "lmstudio" / "config-presets").iterdir())
    fields = json.loads(preset.read_text())["operation"]["fields"]
    assert {"key": "llm.prediction.systemPrompt", "value": system} in fields
    server = export(place, "llama-server", tmp_path / "server")
    request = json.loads((tmp_path / "server" / "request.json").read_text())
    assert request["messages"][0] == {"role": "system", "content": system} and server.notes
    assert "response_format" not in request


@pytest.mark.parametrize("system", ['three """ quotes', "a bell \x07", "no\u00a0break"])
def test_system_prompts_that_a_modelfile_can_not_hold(bundle: Path, tmp_path: Path, system: str) -> None:
    place = changed(bundle, tmp_path / "bundle", system=system)
    with pytest.raises(InputError, match="Modelfile can't hold"):
        export(place, "ollama", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_llama_server(bundle: Path, tmp_path: Path) -> None:
    """The script, with a program in llama-server's place that tells what it was given."""
    found = export(bundle, "llama-server", tmp_path / "a folder", context=512)
    script = tmp_path / "a folder" / "serve.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    told = tmp_path / "told"
    told.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    told.chmod(0o755)
    said = subprocess.run(
        ["sh", str(script), "--threads", "2"], env={"LLAMA_SERVER": str(told), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    options = dict(zip(said[1::2], said[2::2], strict=False))
    assert Path(said[0]).name == "a folder" and (tmp_path / "a folder" / options["--model"]).is_file()
    assert options["--ctx-size"] == "512" and said[-2:] == ["--threads", "2"]
    request = json.loads((tmp_path / "a folder" / "request.json").read_text())
    jsonschema.Draft202012Validator.check_schema(request["response_format"]["json_schema"]["schema"])
    assert "'" in found.commands[0]  # the place is quoted


def test_lmstudio(bundle: Path, tmp_path: Path) -> None:
    export(bundle, "lmstudio", tmp_path / "out")
    model = tmp_path / "out" / "models" / "edgekit" / "restaurant-Q4_K_M" / "restaurant-Q4_K_M.gguf"
    reader = gguf.GGUFReader(model)
    assert reader.fields["tokenizer.chat_template"]
    preset = json.loads((tmp_path / "out" / "config-presets" / "restaurant-Q4_K_M.preset.json").read_text())
    structured = {one["key"]: one["value"] for one in preset["operation"]["fields"]}[
        "llm.prediction.structured"
    ]
    assert structured["jsonSchema"] == Bundle.open(bundle).manifest.output_schema


@pytest.mark.parametrize("precision", ["int4", "fp32"])
def test_onnxruntime_genai_answers_from_it(onnx_bundles: Path, tmp_path: Path, precision: str) -> None:
    export(onnx_bundles / f"restaurant-onnx-{precision}", "onnxruntime-genai", tmp_path / "out")
    said = subprocess.run(
        [sys.executable, str(tmp_path / "out" / "ask.py")],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    schema = Bundle.open(onnx_bundles / f"restaurant-onnx-{precision}").manifest.output_schema
    jsonschema.validate(json.loads(said.stdout), dict(schema or {}))


def test_transformers_answers_from_it(packed_bundles: Path, tmp_path: Path) -> None:
    export(packed_bundles / "restaurant-gptq-int4", "transformers", tmp_path / "out")
    said = subprocess.run(
        [sys.executable, str(tmp_path / "out" / "ask.py")], capture_output=True, text=True, check=True,
        timeout=300, env=os.environ | {"GPTQMODEL_CPU_WORKERS": "2"},
    )  # fmt: skip
    assert json.loads(said.stdout.strip().splitlines()[-1])["people"] == "two"


def test_vllm(packed_bundles: Path, tmp_path: Path) -> None:
    found = export(packed_bundles / "restaurant-gptq-int4", "vllm", tmp_path / "out", context=512)
    assert {"serve.sh", "request.json", "model/config.json", "model/model.safetensors"} <= set(found.files)
    script = (tmp_path / "out" / "serve.sh").read_text()
    assert "serve model --served-model-name restaurant --max-model-len 512 --tensor-parallel-size 1" in script
    assert any("vLLM was not run" in note for note in found.notes)


@pytest.mark.parametrize(
    ("heads", "kept", "cards", "size"),
    [(32, 8, 4, 4), (32, 8, 3, 2), (4, 2, 8, 4), (9, 3, 8, 1), (32, 8, 0, 1)],
)
def test_cards_that_a_model_can_be_dealt_out_to(heads: int, kept: int, cards: int, size: int) -> None:
    config = {
        "num_attention_heads": heads, "num_key_value_heads": kept, "hidden_size": 4096, "intermediate_size": 4096,
    }  # fmt: skip
    model = PackedFolder(Path(), config, "gptq", 4, 128, (), {}, ())
    assert parallel(model, cards) == size


def test_a_format_that_a_tool_does_not_run(onnx_bundles: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--format gguf, or export this one --to onnxruntime-genai"):
        export(onnx_bundles / "restaurant-onnx-int4", "ollama", tmp_path / "out")
    with pytest.raises(InputError, match="--format onnx"):
        export(bundle, "onnxruntime-genai", tmp_path / "out")
    with pytest.raises(InputError, match="no such tool"):
        export(bundle, "abacus", tmp_path / "out")


def test_what_was_changed_is_not_handed_on(bundle: Path, tmp_path: Path) -> None:
    place = changed(bundle, tmp_path / "bundle")
    data = bytearray((place / "model.gguf").read_bytes())
    data[-100] ^= 1
    (place / "model.gguf").write_bytes(data)
    with pytest.raises(BundleError, match="not what was built"):
        export(place, "ollama", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_kept(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(InputError, match="force"):
        export(bundle, "ollama", tmp_path / "out")
    export(bundle, "ollama", tmp_path / "out", force=True)
    assert not (tmp_path / "out" / "mine").exists()


def test_a_context_that_the_model_has_not(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="longer than the model"):
        export(bundle, "ollama", tmp_path / "out", context=1 << 20)


def test_a_model_without_a_template_is_not_told_as_a_chat(tmp_path: Path) -> None:
    from edgekit.build import build
    from edgekit.project import BuildSpec
    from tests.models import write_llama

    base = write_llama(tmp_path / "base")
    (base / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((base / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    built = build(BuildSpec(base=base, out=tmp_path / "dist", name="plain", quantizations=("Q8_0",)))
    with pytest.raises(UnsupportedModelError, match="no chat template"):
        export(built[0].folder, "ollama", tmp_path / "out")


def test_what_the_command_prints(bundle: Path, tmp_path: Path) -> None:
    said = edgekit("export", str(bundle), "--to", "ollama", "-o", "out", cwd=tmp_path)
    assert "ollama create restaurant -f out/Modelfile" in said
    found = json.loads(edgekit("export", str(bundle), "--to", "lmstudio", "-o", "lm", "--json", cwd=tmp_path))
    assert found["tool"] == "lmstudio" and found["folder"] == "lm" and found["commands"]
