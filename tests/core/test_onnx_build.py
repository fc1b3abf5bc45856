"""ONNX bundles: the same every time, judged as others are, kept in caches; and what can't be built so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import edgekit
from edgekit.build import build
from edgekit.buildcache import build_cached
from edgekit.bundle import Bundle
from edgekit.converters import child, onnx
from edgekit.errors import InputError, RuntimeUnavailableError, UnsupportedModelError
from edgekit.export import export
from edgekit.onnx_settings import OnnxSettings
from edgekit.progress import Progress
from edgekit.project import BuildSpec, read_project
from edgekit.trial import Trial
from tests.conftest import ROOT
from tests.core.test_build import tree
from tests.evaluation.conftest import PROMPT, SCHEMA, TEXT


@pytest.fixture
def wanted(spec: BuildSpec, tmp_path: Path) -> BuildSpec:
    return replace(spec, format="onnx", quantizations=("INT4",), out=tmp_path / "out")


@pytest.fixture
def builder() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime_genai")


@pytest.mark.usefixtures("builder")
def test_a_bundle_that_is_the_same_every_time(wanted: BuildSpec, tmp_path: Path) -> None:
    built = build(wanted)
    assert [one.folder.name for one in built] == ["tiny-onnx-int4"]
    first = tree(wanted.out)
    elsewhere = replace(wanted, out=tmp_path / "other")
    build(elsewhere)
    assert tree(elsewhere.out) == first
    opened = Bundle.open(built[0].folder)
    assert opened.problems() == [] and opened.manifest.format == "onnx"
    assert opened.manifest.requirements.runtime == "onnxruntime"
    card = (opened.folder / "README.md").read_text()
    assert "provider cpu, block\\_size 32" in card or "provider cpu, block_size 32" in card
    assert "importance matrix" not in card
    assert {"onnxruntime-genai", "torch"} <= opened.manifest.provenance.tools.keys()
    assert [one.name for one in opened.manifest.provenance.adapters] == ["lora"]
    assert not [path for path in wanted.out.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("builder")
def test_gates_keep_back_what_fails(wanted: BuildSpec, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    trial = Trial(text=tmp_path / "text.txt", ctx=64, chunks=2, gates=("kld <= 100",))
    spec = replace(wanted, prompt=PROMPT, output_schema=SCHEMA, trial=trial)
    built = build(spec)
    assert built[0].published and built[0].manifest.quality is not None
    hopeless = replace(spec, trial=replace(trial, gates=("kld <= 1e-12",)), out=tmp_path / "none")
    assert not build(hopeless)[0].published
    assert not (tmp_path / "none" / "tiny-onnx-int4").exists()


@pytest.mark.usefixtures("builder")
def test_a_cache_brings_it_back(wanted: BuildSpec, tmp_path: Path) -> None:
    first = build_cached(wanted, tmp_path / "cache")[0]
    expected = tree(first.built.folder)
    again = build_cached(replace(wanted, out=tmp_path / "again"), tmp_path / "cache")[0]
    assert (first.how, again.how) == ("built", "restored")
    assert tree(again.built.folder) == expected and Bundle.open(again.built.folder).problems() == []
    other = build_cached(
        replace(wanted, out=tmp_path / "other", onnx=OnnxSettings(block_size=64)), tmp_path / "cache"
    )
    assert other[0].how == "built"


@pytest.mark.usefixtures("builder")
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_build_leaves_nothing(
    wanted: BuildSpec, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise error

    monkeypatch.setattr(child, "keep_words", stopped)
    with pytest.raises((KeyboardInterrupt, InputError, OSError)):
        build(wanted)
    assert not list(wanted.out.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tensor_types": (("output", "Q8_0"),)}, "--tensor-type"),
        ({"imatrix": Path("matrix.gguf")}, "--imatrix"),
        ({"quantizations": ("Q4_K_M",)}, "INT4, INT8, FP32"),
        ({"quantizations": ("FP16",)}, "FP16 for cpu"),
    ],
)
def test_what_an_onnx_model_can_not_be_built_with(
    wanted: BuildSpec, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        build(replace(wanted, **changes))  # type: ignore[arg-type]
    assert not wanted.out.exists()


def test_without_the_builder_nothing_is_begun(wanted: BuildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "NEEDED", ("nothing_of_that_name",))
    with pytest.raises(RuntimeUnavailableError, match="nothing_of_that_name"):
        build(wanted)
    assert not wanted.out.exists()


def test_a_project_says_format_and_settings(tmp_path: Path) -> None:
    example = (ROOT / "examples" / "restaurant" / "edgekit.toml").read_text()
    (tmp_path / "edgekit.toml").write_text(
        'name = "x"\nbase = "base"\nformat = "onnx"\n[onnx]\nblock_size = 64\nalgorithm = "k_quant"\n'
    )
    (tmp_path / "base").mkdir()
    spec = read_project(tmp_path / "edgekit.toml")
    assert (spec.format, spec.quantizations) == ("onnx", ("INT4",))
    assert spec.onnx == OnnxSettings(block_size=64, algorithm="k_quant")
    assert "onnx" not in example  # the example's own file is GGUF's


@pytest.mark.usefixtures("builder")
def test_a_provider_that_is_not_here_is_built_for_and_not_run(wanted: BuildSpec) -> None:
    notes: list[str] = []

    class Heard(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    built = build(replace(wanted, onnx=OnnxSettings(provider="cuda")), Heard())
    assert any("nothing of it was run here" in note for note in notes)
    assert "golden.json" not in {file.path for file in built[0].manifest.files}
    with pytest.raises(UnsupportedModelError, match="export --to onnxruntime-genai"):
        edgekit.load(built[0].folder)
    export(built[0].folder, "onnxruntime-genai", wanted.out / "out")  # which takes only the vocabulary
