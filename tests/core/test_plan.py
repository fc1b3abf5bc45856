"""Plans of real folders: the sizes of what is built, without the weights, without anything but config.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.build import build
from edgekit.bundle import Bundle
from edgekit.choosing import artifact_of
from edgekit.converters.gguf.presets import PRESETS
from edgekit.errors import AdapterError, InputError, UnsupportedModelError
from edgekit.plan import Candidates, candidates, plan
from edgekit.profiles import devices
from edgekit.project import BuildSpec, read_project
from edgekit.targets import resolve
from tests.conftest import ADAPTER, BASE
from tests.converters.test_imatrix import write_gguf
from tests.models import llama_config, lora_arrays, write_adapter, write_llama

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def unfetched(folder: Path, *, index: bool = True, tokenizer: bool = True) -> Path:
    """A checkpoint as it is before its weights were fetched."""
    from edgekit.converters.checkpoint import Checkpoint

    checkpoint = Checkpoint(folder)
    names = dict.fromkeys(checkpoint.names(), "model-00001-of-00001.safetensors")
    checkpoint.close()
    (folder / "model.safetensors").unlink()
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    if not tokenizer:
        for name in TOKENIZER:
            (folder / name).unlink(missing_ok=True)
    return folder


def sizes(found: Candidates) -> dict[str, int]:
    return {one.quantization: one.artifact.shape.file_bytes for one in found.every}


def buildable(found: Candidates) -> tuple[str, ...]:
    return tuple(one.quantization for one in found.every if one.barred is None)


def test_every_size_and_shape_is_that_of_the_file_that_is_built(spec: BuildSpec) -> None:
    found = candidates(spec)
    assert found.exact and len(found.every) + len(found.notes) == len(PRESETS)
    assert len(buildable(found)) > 20
    built = build(replace(spec, quantizations=("F16", "Q8_0", "Q4_K_M", "Q2_K")))
    planned = {one.quantization: one.artifact.shape for one in found.every}
    for one in built:
        assert artifact_of(one.folder / "model.gguf").shape == planned[one.manifest.quantization]


@pytest.mark.parametrize("index", [True, False], ids=["config and index", "config alone"])
def test_the_weights_neednt_be_there(index: bool, spec: BuildSpec) -> None:
    there = candidates(spec)
    unfetched(spec.base, index=index)
    without = candidates(spec)
    assert sizes(without) == sizes(there) and buildable(without) == buildable(there) and without.exact
    assert "no weights" in without.notes[0]


def test_without_a_tokenizer_sizes_are_near_and_say_so(tmp_path: Path) -> None:
    spec = BuildSpec(write_llama(tmp_path / "base"), tmp_path, "tiny")
    there = candidates(spec)
    exact = sizes(there)
    unfetched(spec.base, tokenizer=False)
    found = candidates(spec)
    assert not found.exact and "no tokenizer here" in found.notes[1]
    assert all(abs(size - exact[kind]) < 10_000 for kind, size in sizes(found).items())
    assert [replace(one.artifact.shape, file_bytes=0) for one in found.every] == [
        replace(one.artifact.shape, file_bytes=0) for one in there.every
    ]


def test_an_adapter_that_adds_a_head_counts(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", tie_word_embeddings=True)
    lora = write_adapter(
        tmp_path / "lora", lora_arrays(llama_config(), ["lm_head"]), target_modules=["lm_head"]
    )
    alone = sizes(candidates(BuildSpec(base, tmp_path, "tiny")))
    spec = BuildSpec(base, tmp_path / "out", "tiny", ((lora, 1.0),), ("F16",))
    merged = sizes(candidates(spec))
    assert merged["F16"] >= alone["F16"] + 384 * 64 * 2
    assert build(spec)[0].size == merged["F16"]


def test_an_adapter_that_doesnt_fit_is_refused_without_the_weights(tmp_path: Path) -> None:
    base = unfetched(write_llama(tmp_path / "base"))
    wide = write_adapter(
        tmp_path / "wide", lora_arrays(llama_config(hidden_size=128), ["model.layers.0.self_attn.q_proj"])
    )
    with pytest.raises(AdapterError):
        candidates(BuildSpec(base, tmp_path, "tiny", ((wide, 1.0),)))


def test_a_gguf_base_is_no_better_for_more_bits(base_gguf: Path, tmp_path: Path) -> None:
    found = candidates(BuildSpec(base_gguf, tmp_path, "base"))
    barred = {one.quantization: one.barred or "" for one in found.every}
    assert (
        "no better" in barred["F16"]
        and "no better" in barred["F32"]
        and not barred["Q8_0"]
        and not barred["Q4_K_M"]
    )
    assert sizes(found)["Q8_0"] == base_gguf.stat().st_size
    _, planned = plan(BuildSpec(base_gguf, tmp_path, "base"), [devices.load("laptop-8gb")])
    assert [row.quantization for row in planned[0].rows if row.chosen] == ["Q8_0"]


def test_the_example_for_two_targets(bundles: Path, tmp_path: Path) -> None:
    spec = BuildSpec(BASE, tmp_path, "restaurant", ((ADAPTER, 1.0),))
    found, planned = plan(spec, resolve(["laptop-8gb", "raspberry-pi-5-8gb"], {}))
    assert [one.device.name for one in planned] == ["laptop-8gb", "raspberry-pi-5-8gb"]
    for one in planned:
        assert one.problem is None and len(one.rows) == len(found.every)
        assert [row.quantization for row in one.rows if row.chosen] == ["Q8_0"]
        assert one.rows[0].size_bytes == (bundles / "restaurant-q8_0" / "model.gguf").stat().st_size


def test_what_fits_nowhere_is_a_problem_of_its_target(spec: BuildSpec, tmp_path: Path) -> None:
    small = tmp_path / "small.toml"
    small.write_text('extends = "laptop-8gb"\nbudget_gb = 0.01\n')
    _, planned = plan(spec, resolve(["laptop-8gb", str(small)], {}))
    assert planned[0].problem is None and "0.05 GB more than the 0.01 GB" in str(planned[1].problem)


def test_formats_that_a_target_does_not_take(spec: BuildSpec, tmp_path: Path) -> None:
    _, planned = plan(spec, [devices.load("datacenter-cuda-80gb")])
    assert planned[0].notes == ["it prefers gptq: --format gptq"]
    path = tmp_path / "only.toml"
    path.write_text('extends = "laptop-8gb"\nformats = ["onnx"]\n')
    with pytest.raises(InputError, match="--format onnx"):
        plan(spec, [devices.load(path)])
    _, planned = plan(replace(spec, format="awq"), [devices.load("datacenter-cuda-80gb")])
    assert [row.quantization for row in planned[0].rows if row.chosen] == ["INT4"]


def test_other_formats_are_foreseen(bundles: Path, onnx_bundles: Path, packed_bundles: Path) -> None:
    """Within some per cent of what is built of the example, whose embedding is tied."""
    spec = BuildSpec(BASE, bundles, "x", ((ADAPTER, 1.0),))
    built = [(onnx_bundles, "onnx", "FP32"), (onnx_bundles, "onnx", "INT4")]
    built += [(packed_bundles, "gptq", "INT4"), (packed_bundles, "awq", "INT4")]
    for folder, form, name in built:
        found = candidates(replace(spec, format=form))  # type: ignore[arg-type]
        assert not found.exact
        foreseen = {one.quantization: one.artifact.shape for one in found.every}[name]
        artifact = Bundle.open(folder / f"restaurant-{form}-{name.lower()}").artifact
        real = artifact_of(artifact).shape
        assert foreseen.file_bytes == pytest.approx(real.file_bytes, rel=0.06), (form, name)
        assert foreseen.token_bytes == pytest.approx(real.token_bytes, rel=0.06), (form, name)


def test_an_untied_embedding_lies_beside(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    shapes = {
        (form, one.quantization): one.artifact.shape
        for form in ("onnx", "gptq")
        for one in candidates(BuildSpec(base, tmp_path, "x", format=form)).every
    }
    numbers = 384 * 64
    for key, size in (("onnx", "INT4"), 4), (("gptq", "INT4"), 2):
        assert shapes[key].weight_bytes - shapes[key].token_bytes == numbers * size


def test_a_projects_targets(spec: BuildSpec, tmp_path: Path) -> None:
    path = tmp_path / "edgekit.toml"
    path.write_text(
        'name = "x"\nbase = "base"\n[targets.laptop-8gb]\n[targets.kiosk]\nextends = "raspberry-pi-5-8gb"\n'
        'quantizations = ["Q4_0"]\nmin_tps = 1\n'
    )
    project = read_project(path)
    both = project.devices
    assert project.quantizations == ()
    assert [one.name for one in both] == ["laptop-8gb", "kiosk"]
    _, planned = plan(project, both)
    assert [row.quantization for row in planned[1].rows if row.chosen] == ["Q4_0"]
    assert [one.name for one in read_project(path, targets=["kiosk", "laptop-16gb"]).devices] == [
        "kiosk",
        "laptop-16gb",
    ]
    with pytest.raises(InputError, match="named twice"):
        read_project(path, targets=["kiosk", "kiosk"])
    path.write_text(path.read_text().replace("Q4_0", "Q4_9"))
    with pytest.raises(InputError, match="Q4_9"):
        plan(project, read_project(path).devices)


def test_an_importance_matrix_makes_room_for_two_bits(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", hidden_size=256, intermediate_size=256)
    spec = BuildSpec(base, tmp_path / "out", "tiny", quantizations=("IQ2_XXS",))
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    sums = {f"blk.{i}.{part}.weight": (np.ones(256, np.float32), [4.0]) for i in range(2) for part in parts}
    matrix = write_gguf(tmp_path / "m.gguf", sums)
    without, found = candidates(spec), candidates(replace(spec, imatrix=matrix))
    assert "IQ2_XXS" not in buildable(without) and "IQ2_XXS" in buildable(found)
    assert "--imatrix" in {one.quantization: one.barred or "" for one in without.every}["IQ2_XXS"]
    assert build(replace(spec, imatrix=matrix))[0].size == sizes(found)["IQ2_XXS"]


def test_what_isnt_converted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["NewForCausalLM"], "model_type": "new"}')
    with pytest.raises(UnsupportedModelError):
        candidates(BuildSpec(tmp_path, tmp_path, "new"))
    with pytest.raises(InputError, match="missing"):
        candidates(BuildSpec(tmp_path / "nowhere", tmp_path, "new"))
