"""Types chosen under a budget, and error feedback: whole builds of a small model, measured by llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit import automatic, costs, importance_worker
from edgekit.budget import Budget
from edgekit.build import Built, build
from edgekit.buildcache import parts
from edgekit.bundle import Bundle
from edgekit.digests import Digests
from edgekit.errors import EdgekitError, InputError
from edgekit.gguf_header import read_header
from edgekit.probing import Weigh
from edgekit.progress import Progress
from edgekit.project import BuildSpec
from edgekit.recipe import Recipe, text
from tests.models import write_llama

SIZES: Mapping[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2}
TEXT = (
    "Table for two, please: tomorrow at seven. Or the day after, for nine people, at eight in the evening. "
    * 12
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("auto") / "base", **SIZES)


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auto-data") / "data.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def spec(base: Path, data_file: Path, tmp_path: Path) -> BuildSpec:
    budget = Budget(bpw=4.5)
    return BuildSpec(base, tmp_path / "out", "tiny", (), ("auto",), calibration=data_file, budget=budget)


def types_of(built: Built) -> dict[str, str]:
    tensors = read_header(built.folder / "model.gguf").tensors
    return {one.name: one.kind for one in tensors if one.kind != "F32"}


def weights_of(built: Built) -> bytes:
    file = built.folder / "model.gguf"
    return file.read_bytes()[min(one.offset for one in read_header(file).tensors) :]


def bits_of(path: Path) -> float:
    tensors = read_header(path).tensors
    weights = 0
    for one in tensors:
        count = 1
        for size in one.dimensions:
            count *= size
        weights += count
    return 8 * sum(one.nbytes for one in tensors) / weights


class Listener(Progress):
    """Keeps the stages."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, total: int) -> None:
        self.stages.append(name)


def test_bits_per_weight_recipe_and_evidence(spec: BuildSpec) -> None:
    listener = Listener()
    (built,) = build(replace(spec, quantizations=("auto", "Q4_K_M")), listener)[:1]
    assert built.folder.name == "tiny-auto"
    assert 4.2 < bits_of(built.folder / "model.gguf") <= 4.5
    found = built.manifest.allocation
    assert found is not None
    assert found.asked == "bpw <= 4.5"
    assert found.types == types_of(built)
    assert set(found.sensitivity) == set(found.types)
    assert len(set(found.types.values())) > 1
    kept = [one for one in found.candidates if one.kept]
    assert len(found.candidates) == 3
    assert kept[0].kld == min(one.kld for one in found.candidates) > 0
    assert kept[0].size == built.size
    assert found.tokens > 0
    assert built.manifest.provenance.calibration is not None
    assert built.manifest.provenance.calibration.tokens
    assert any(stage.startswith(f"measuring {len(found.types)} groups") for stage in listener.stages)
    again = Bundle.open(built.folder)
    assert not again.problems()
    assert {"recipe.toml", "model.gguf"} <= {file.path for file in again.manifest.files}

    # The recipe gives the same bytes without choosing again; and by itself also without the data, rounded to nearest.
    taken = replace(spec, out=spec.out / "again", budget=None, recipe=built.folder / "recipe.toml")
    (repeated,) = build(taken)
    assert (repeated.folder / "model.gguf").read_bytes() == (built.folder / "model.gguf").read_bytes()
    with pytest.raises(InputError, match="needs the data"):
        build(replace(taken, calibration=None, force=True))
    plain = spec.out / "plain.toml"
    plain.write_text((built.folder / "recipe.toml").read_text().replace('"feedback"', '"nearest"'))
    (nearest,) = build(replace(taken, calibration=None, recipe=plain, out=spec.out / "nearest"))
    assert types_of(nearest) == types_of(built)
    assert (nearest.folder / "model.gguf").read_bytes() != (built.folder / "model.gguf").read_bytes()
    assert not [path for path in spec.out.iterdir() if path.name.startswith(".")]


def test_size_is_kept_and_it_is_the_same_twice(spec: BuildSpec) -> None:
    sized = replace(spec, budget=Budget(max_size=560_000))
    (whole,) = build(sized)
    assert 550_000 < whole.size <= 560_000
    (again,) = build(replace(sized, out=spec.out / "again"))
    assert (again.folder / "manifest.json").read_bytes() == (whole.folder / "manifest.json").read_bytes()


def test_divergence_is_kept(spec: BuildSpec) -> None:
    (loose,) = build(replace(spec, budget=Budget(bpw=3.5)))
    assert loose.manifest.allocation is not None
    bar = 0.5 * min(one.kld for one in loose.manifest.allocation.candidates)
    (built,) = build(replace(spec, budget=Budget(max_kld=bar), out=spec.out / "kld"))
    found = built.manifest.allocation
    assert found is not None
    kept = [one for one in found.candidates if one.kept]
    assert kept[0].kld <= bar
    assert kept[0].size == min(one.size for one in found.candidates if one.kld <= bar) == built.size
    assert loose.size < built.size
    assert all(one.size < built.size for one in found.candidates if one.kld > bar)


def test_refined_presets_have_the_same_types_and_lose_less(spec: BuildSpec) -> None:
    named = replace(spec, quantizations=("Q3_K_M", "Q8_0"), budget=None)
    plain = build(named)
    refined = build(replace(named, refine=True, out=spec.out / "refined"))
    assert [types_of(one) for one in refined] == [types_of(one) for one in plain]
    assert [one.size for one in refined] == [one.size for one in plain]
    found = refined[0].manifest.allocation
    assert found is not None and found.asked == "Q3_K_M, refined"
    klds = {one.name: one.kld for one in found.candidates}
    assert found.rounding == "feedback"
    assert min(klds.values()) < 0.8 * klds["Q3_K_M, nearest"]
    # What can't be rounded otherwise stays as it was.
    assert weights_of(refined[1]) == weights_of(plain[1])


def test_of_a_gguf_base_in_several_files_with_types_that_are_named(spec: BuildSpec) -> None:
    (plain,) = build(replace(spec, quantizations=("F16",), calibration=None, budget=None))
    named = replace(spec, tensor_types=("ffn_down=q6_k", "token_embd=q8_0"), split_size=200_000)
    base = plain.folder / "model.gguf"
    (built,) = build(replace(named, base=base, out=spec.out / "gguf", budget=Budget(max_size=640_000)))
    assert 600_000 < built.size <= 640_000
    files = sorted(built.folder.glob("model-*.gguf"))
    assert len(files) > 1
    found = {one.name: one.kind for file in files for one in read_header(file).tensors}
    assert {found[f"blk.{layer}.ffn_down.weight"] for layer in (0, 1)} == {"Q6_K"}
    assert found["token_embd.weight"] == "Q8_0"


def test_rows_of_other_lengths(data_file: Path, tmp_path: Path) -> None:
    """Blocks of 32, and rows that no type fits but F16."""
    base = write_llama(tmp_path / "base", intermediate_size=172, num_hidden_layers=1)
    spec = BuildSpec(
        base, tmp_path / "out", "odd", (), ("auto",), calibration=data_file, budget=Budget(bpw=7.0)
    )
    (built,) = build(spec)
    found = types_of(built)
    assert found["blk.0.ffn_down.weight"] == "F16"
    assert found["blk.0.attn_q.weight"] in {"Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}
    assert bits_of(built.folder / "model.gguf") <= 7.0


def test_a_cache_knows_budgets_and_recipes(spec: BuildSpec, tmp_path: Path) -> None:
    def key(one: BuildSpec) -> str:
        (part,) = parts(one, Digests(tmp_path / "cache"))
        return part.key

    assert key(spec) == key(spec)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text(Recipe(1, "Q4_K_M", {"ffn": "q4_k"}), "bpw <= 4.5"))
    by_recipe = replace(spec, budget=None, recipe=recipe)
    keys = {
        key(spec),
        key(replace(spec, budget=Budget(bpw=5.0))),
        key(by_recipe),
        key(replace(spec, refine=True)),
    }
    recipe.write_text(text(Recipe(1, "Q4_K_M", {"ffn": "q5_k"}), "bpw <= 4.5"))
    assert len(keys | {key(by_recipe)}) == 5
    # A budget is nothing to the bundles beside it.
    beside = replace(spec, quantizations=("Q8_0",))
    assert key(beside) == key(replace(beside, budget=None))


class Untouched(Progress):
    """A stage would mean that weights are read."""

    def stage(self, name: str, total: int) -> None:
        raise AssertionError(f"work began: {name}")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": Budget(bpw=2.0)}, "below what the smallest types take"),
        ({"budget": Budget(max_size=1000)}, "below what the smallest types take"),
        ({"budget": Budget(bpw=17.0)}, "above what F16 takes"),
        ({"budget": None}, "auto has no budget"),
        ({"calibration": None}, "needs data"),
        ({"refine": True, "budget": None, "quantizations": ("Q4_K_M",), "calibration": None}, "needs data"),
        ({"recipe": Path("missing.toml"), "budget": None}, "missing.toml"),
        ({"recipe": Path("r.toml")}, "nothing to choose"),
    ],
)
def test_refused_before_a_weight_is_read(spec: BuildSpec, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build(replace(spec, **changes), Untouched())
    assert not spec.out.exists() or not list(spec.out.iterdir())


def test_a_matrix_says_too_little(spec: BuildSpec, tmp_path: Path) -> None:
    matrix = tmp_path / "imatrix.gguf"
    matrix.write_bytes(b"GGUF")
    with pytest.raises(InputError, match="an importance matrix says too little"):
        build(replace(spec, calibration=matrix), Untouched())


def test_too_little_data_to_set_some_apart(spec: BuildSpec, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text(TEXT[:90])
    with pytest.raises(InputError, match="too little to calibrate on"):
        build(replace(spec, calibration=short))


def test_an_interrupt_leaves_nothing(spec: BuildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(automatic, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(spec)
    assert not list(spec.out.iterdir())


def test_a_child_that_dies_is_an_error(spec: BuildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importance_worker.run

    def dying(request: Any, report: Any = None) -> Any:
        if isinstance(request, Weigh):
            request = Weigh(request.artifact, "/nowhere", request.tokens, request.groups, 1)
        return real(request, report)

    monkeypatch.setattr(importance_worker, "run", dying)
    with pytest.raises(EdgekitError):
        build(spec)
    assert not list(spec.out.iterdir())


def test_many_tensors_are_measured_together() -> None:
    names = [f"blk.{layer}.{part}.weight" for layer in range(40) for part in ("a", "b", "c")] + [
        "token_embd.weight"
    ]
    groups = costs.grouped(names, 64)
    assert sorted(name for group in groups for name in group) == sorted(names)
    assert len(groups) <= 64
    assert groups[0] == ["blk.0.a.weight", "blk.1.a.weight"]
    assert costs.grouped(names[:6], 64) == [[name] for name in ["blk.0.a.weight", "blk.1.a.weight", "blk.0.b.weight", "blk.1.b.weight", "blk.0.c.weight", "blk.1.c.weight"]]  # fmt: skip
    assert json.dumps(groups)
