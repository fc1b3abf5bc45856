"""Gates in a build: what passes is published with its evidence, what fails isn't, and nothing else is touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit import buildcache, buildkey, evidence, judging, measuring
from edgekit import evaluate as evaluation
from edgekit.build import build
from edgekit.buildcache import build_cached
from edgekit.bundle import Bundle, Manifest, write_json
from edgekit.digests import Digests
from edgekit.errors import GateError, InputError
from edgekit.evaluate import Plan, evaluate
from edgekit.evaluation.running import Speed
from edgekit.project import BuildSpec, read_project
from edgekit.trial import Trial
from tests.core.test_build import tree
from tests.core.test_orders import device
from tests.evaluation.conftest import PROMPT, SCHEMA, TEXT, cache, write_task  # noqa: F401

SURE = "kld <= 100"
NEVER = "kld <= 1e-9"


@pytest.fixture
def tried(spec: BuildSpec, tmp_path: Path) -> BuildSpec:
    """A build that measures on a text."""
    (tmp_path / "text.txt").write_text(TEXT)
    trial = Trial(text=tmp_path / "text.txt", ctx=64, chunks=2)
    return replace(spec, prompt=PROMPT, output_schema=SCHEMA, trial=trial)


@pytest.fixture
def labelled(tried: BuildSpec, tmp_path: Path) -> BuildSpec:
    """And on twelve records."""
    task = write_task(tmp_path / "task.jsonl", 12)
    return replace(tried, trial=replace(tried.trial, task=task))


def gated(spec: BuildSpec, *gates: str, **changes: Any) -> BuildSpec:
    return replace(spec, trial=replace(spec.trial, gates=gates), **changes)


def test_the_evidence_is_what_eval_says(labelled: BuildSpec, tmp_path: Path) -> None:
    spec = gated(labelled, SURE, "f1 >= 0", "size <= 1GB")
    built = build(spec)
    assert [one.published for one in built] == [True, True]
    folders = tuple(one.folder for one in built)
    (base, adapters), trial = (spec.base, spec.adapters), spec.trial
    said = evaluate(
        Plan(
            folders, reference=base, adapters=adapters, task=trial.task, text=trial.text, chunk=64, chunks=2,
            speed=False, cached=False,
        )
    )  # fmt: skip
    assert said.reference is not None
    for row, one in zip(said.rows, built, strict=True):
        found = evidence.of(Bundle.open(one.folder).manifest)
        assert found is not None and found.reference == "F16" and found.task_figures and row.task
        assert found.text == evidence.Input("text.txt", str(said.text_sha256))
        assert found.task == evidence.Input("task.jsonl", str(said.task_sha256))
        assert (found.text_figures, found.reference_text) == (row.text, said.reference.text)
        assert found.reference_task == said.reference.task
        flips, theirs = found.task_figures.reference, row.task.reference
        assert flips and theirs and flips == msgspec.structs.replace(theirs, changes=[])
        measured = evaluation.measured(row)
        assert [(one.gate, one.measured, one.passed) for one in found.gates] == [
            (SURE, measured["kld"], True),
            ("f1 >= 0", measured["f1"], True),
            ("size <= 1GB", row.size, True),
        ]
        assert one.manifest.speed is None and Bundle.open(one.folder).problems() == []


def test_no_record_of_the_task_is_published(labelled: BuildSpec) -> None:
    built = build(replace(labelled, quantizations=("Q4_0",)))[0]
    text = (built.folder / "manifest.json").read_text()
    assert "Ann" not in text and '"r0"' not in text


def test_built_twice_the_same_bytes(
    labelled: BuildSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(gated(labelled, SURE))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))  # nothing is remembered
    build(gated(labelled, SURE, out=tmp_path / "again", threads=1))
    assert tree(tmp_path / "again") == tree(labelled.out)


def test_each_bundle_on_its_own_merits(tried: BuildSpec) -> None:
    sizes = [one.size for one in build(replace(tried, trial=Trial()))]
    old = tree(tried.out)
    spec = gated(tried, f"size <= {min(sizes)}B", force=True, version="2")
    large, small = build(spec)
    assert (large.published, small.published) == (False, True)
    now = tree(tried.out)
    assert {name for name in now if name.startswith("tiny-q8_0/")} == {
        name for name in old if name.startswith("tiny-q8_0/")
    }
    assert all(now[name] == data for name, data in old.items() if name.startswith("tiny-q8_0/"))
    assert json.loads(now["tiny-q4_0/manifest.json"])["version"] == "2"
    assert sorted(path.name for path in tried.out.iterdir()) == [
        "tiny-q4_0",
        "tiny-q8_0",
        "tiny-q8_0.failed.json",
    ]
    failed = msgspec.json.decode(now["tiny-q8_0.failed.json"], type=Manifest)
    found = evidence.of(failed)
    assert found is not None and not found.gates[0].passed and failed.version == "2" and found.text_figures
    with pytest.raises(GateError, match="1 gate failed") as caught:
        judging.require([large, small])
    assert "tiny-q8_0: size <=" in str(caught.value) and "tiny-q4_0" not in str(caught.value)
    judging.require([small])
    # What passes later leaves no evidence of the failure.
    build(gated(tried, "size <= 1GB", force=True))
    assert sorted(path.name for path in tried.out.iterdir()) == ["tiny-q4_0", "tiny-q8_0"]


def test_types_that_are_overridden_count_as_quantized(tried: BuildSpec) -> None:
    spec = gated(tried, quantizations=("F16", "F32"), tensor_types=("ffn_down=q4_0",))
    for one in build(spec):
        found = evidence.of(one.manifest)
        assert found and found.text_figures and found.text_figures.reference
        assert found.text_figures.reference.kld.value > 1e-6
    (plain,) = build(replace(spec, quantizations=("F16",), tensor_types=(), force=True))
    found = evidence.of(plain.manifest)
    assert found and found.text_figures and found.text_figures.reference
    assert found.text_figures.reference.kld.value == 0


def test_a_reference_that_holds_every_weight(tried: BuildSpec) -> None:
    path = tried.base / "model.safetensors"
    from safetensors.numpy import load_file, save_file

    weights = load_file(path)
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = 1e5
    save_file(weights, path)
    spec = gated(tried, "kld <= 0", quantizations=("F32",))
    with pytest.raises(InputError, match="values that F16 never takes"):
        build(spec)
    assert list(spec.out.iterdir()) == []
    (one,) = build(replace(spec, trial=replace(spec.trial, reference_type="F32")))
    found = evidence.of(one.manifest)
    assert one.published and found and found.reference == "F32"


def test_gates_of_a_target(tried: BuildSpec) -> None:
    pair = (device("laptop-8gb", "Q4_0"), device("raspberry-pi-5-8gb", "Q4_0"))
    trial = replace(tried.trial, gates=(SURE,), target_gates=(("laptop-8gb", ("kld <= 1e-9",)),))
    one, other = build(replace(tried, quantizations=(), devices=pair, trial=trial))
    assert (one.published, other.published) == (False, True)
    assert not one.folder.exists() and Bundle.open(other.folder).problems() == []
    found = [[judged.gate for judged in evidence.of(its.manifest).gates] for its in (one, other)]  # type: ignore[union-attr]
    assert found == [[SURE, "kld <= 1e-9"], [SURE]]


def test_split_files_and_a_file_as_base(tried: BuildSpec) -> None:
    (split,) = build(gated(tried, SURE, quantizations=("Q8_0",), split_size=20_000))
    assert split.published and len(list(split.folder.glob("*.gguf"))) > 1
    (source,) = build(replace(tried, quantizations=("F16",), trial=Trial()))
    trial = replace(tried.trial, gates=("kld <= 0.005", "ppl_ratio <= 1.05"))
    spec = BuildSpec(
        source.folder / "model.gguf",
        tried.out,
        "file",
        quantizations=("Q8_0", "Q4_0"),
        threads=2,
        trial=trial,
    )
    same, rough = build(spec)
    assert (same.published, rough.published) == (True, False)
    found = evidence.of(same.manifest)
    assert found and found.text_figures and found.text_figures.reference and found.task_figures is None


def test_speed_only_where_a_gate_asks(tried: BuildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([Speed(100.0, 50.0, 10_000_000, 1, 0.0), Speed(100.0, 5.0, 10_000_000, 1, 0.0)])
    asked = []

    def speed(subject: Any, threads: int, progress: Any) -> Speed:
        asked.append(subject.label)
        return next(speeds)

    monkeypatch.setattr("edgekit.evaluation.running.speed", speed)
    trial = Trial(target_gates=(("laptop-8gb", ("decode_tps >= 10", "memory <= 1GB")),))
    pair = (device("laptop-8gb", "Q4_0"), device("raspberry-pi-5-8gb", "Q4_0"))
    named, fast, unasked = build(replace(tried, quantizations=("Q8_0",), devices=pair, trial=trial))
    assert asked == ["tiny-laptop-8gb"]
    assert evidence.speed_of(fast.manifest) == Speed(100.0, 50.0, 10_000_000, 1, 0.0)
    assert named.manifest.speed is None and unasked.manifest.quality is None
    found = evidence.of(fast.manifest)
    assert found and found.reference is None and [one.measured for one in found.gates] == [50.0, 10_000_000]
    slow = replace(tried, trial=Trial(gates=("decode_tps >= 10",)), quantizations=("F16",))
    assert not build(slow)[0].published


BAD: dict[str, tuple[Callable[[BuildSpec], BuildSpec], str]] = {
    "labels of another task": (lambda s: _rewritten(s, "task", '{"id": "a", "text": "x", "expected": {"kind": "gin"}}'), "doesn't match"),
    "no records": (lambda s: _rewritten(s, "task", ""), "no labelled record"),
    "a short text": (lambda s: _rewritten(s, "text", "tea"), "shorter than one chunk"),
    "no text at all": (lambda s: replace(s, trial=replace(s.trial, text=s.base / "none.txt")), "none.txt"),
    "no schema": (lambda s: replace(s, output_schema=None), "no schema to ask"),
    "no prompt": (lambda s: replace(s, prompt=None), "no prompt to ask"),
    "no labels": (lambda s: gated(s, "accuracy >= 0.5", output_schema={"type": "object", "properties": {"x": {"type": "string"}}}), "one of a few labels"),
    "long chunks": (lambda s: replace(s, trial=replace(s.trial, ctx=100_000)), "longer than the model's context"),
}  # fmt: skip


def _rewritten(spec: BuildSpec, what: str, text: str) -> BuildSpec:
    getattr(spec.trial, what).write_text(text)
    return spec


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_before_a_weight_is_read(
    name: str, labelled: BuildSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.converters.gguf import stream

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(stream, "write", refuse)
    monkeypatch.setattr("edgekit.importance_worker.run", refuse)
    calibration = labelled.base.parent / "calibration.txt"
    calibration.write_text("words " * 400)
    change, said = BAD[name]
    with pytest.raises(InputError, match=said):
        build(change(replace(labelled, calibration=calibration)))
    assert not labelled.out.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gates": ("f1_micro >= 1",)}, "did you mean f1"), ({"gates": ("f1 >= 1",), "task": None}, "f1 takes a task"),
        ({"gates": ("kld <= 1",), "text": None}, "kld takes a text"), ({"chunks": 0}, "chunks"), ({"reference_type": "Q8_0"}, "not quantized"),
        ({"ctx": 1}, "ctx"),
        ({"target_gates": (("pi", ("f1 > high",)),)}, "can't read the gate"),
    ],
)  # fmt: skip
def test_a_trial_that_cannot_be(labelled: BuildSpec, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(labelled.trial, **changes)


def test_an_interrupted_evaluation_leaves_nothing(
    labelled: BuildSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        assert len(list(labelled.out.glob(".edgekit-*/reference.gguf"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr("edgekit.evaluation.running.answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(labelled)
    assert list(labelled.out.iterdir()) == []


def test_the_reference_is_gone_afterwards(tried: BuildSpec) -> None:
    build(gated(tried, SURE))
    assert sorted(path.name for path in tried.out.iterdir()) == ["tiny-q4_0", "tiny-q8_0"]


def test_a_cache_knows_what_was_judged(
    tried: BuildSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, folder = gated(tried, SURE, quantizations=("Q4_0",)), tmp_path / "kept"
    assert [one.how for one in build_cached(spec, folder)] == ["built"]
    found = build_cached(spec, folder)
    assert [one.how for one in found] == ["unchanged"] and evidence.of(found[0].built.manifest).gates  # type: ignore[union-attr]
    # What fails isn't kept: it fails again.
    bad = gated(spec, NEVER, force=True)
    assert [one.how for one in build_cached(bad, folder)] == ["failed"]
    assert [one.how for one in build_cached(bad, folder)] == ["failed"]
    assert judging.failed_place(spec.out / "tiny-q4_0").exists()
    monkeypatch.setattr(buildcache, "build", None)
    assert [one.how for one in build_cached(spec, folder)] == ["unchanged"]
    assert not judging.failed_place(spec.out / "tiny-q4_0").exists()


def test_a_key_covers_data_and_gates(labelled: BuildSpec, tmp_path: Path) -> None:
    spec, trial = replace(labelled, quantizations=("Q8_0",)), labelled.trial
    assert trial.text is not None
    other = tmp_path / "other"
    other.mkdir()
    (other / "text.txt").write_text(TEXT + "More.\n")
    write_task(other / "task.jsonl", 13)
    trials = [
        trial, Trial(), replace(trial, gates=(SURE,)), replace(trial, gates=("kld <= 99",)), replace(trial, chunks=3),
        replace(trial, ctx=32), replace(trial, text=other / "text.txt"), replace(trial, task=other / "task.jsonl"),
        replace(trial, task=None), replace(trial, text=None), replace(trial, reference_type="F32"), replace(trial, gates=("decode_tps >= 1",)),
    ]  # fmt: skip
    keys = [buildkey.key(replace(spec, trial=one), Digests(tmp_path / "kept")) for one in trials]
    keys.append(buildkey.key(replace(spec, intended_use="bookings"), Digests(tmp_path / "kept")))
    assert len(set(keys)) == len(trials) + 1
    aside = replace(trial, target_gates=(("laptop-8gb", (SURE,)),))
    assert buildkey.key(replace(spec, trial=aside), Digests(tmp_path / "kept")) == keys[0]


def test_a_project_file_says_it_all(tried: BuildSpec, tmp_path: Path) -> None:
    write_json(tmp_path / "schema.json", SCHEMA)
    path = tmp_path / "edgekit.toml"
    path.write_text(
        'name = "tiny"\nbase = "base"\nintended_use = "orders"\n'
        '[evaluation]\ntask = "task.jsonl"\ntext = "text.txt"\ngates = ["f1 >= 0"]\nchunks = 2\nctx = 64\n'
        "[targets.laptop-8gb]\ncontext = 256\ngates = ['kld <= 1']\n[targets.raspberry-pi-4-4gb]\n"
    )
    spec = read_project(path)
    folder = tmp_path
    assert spec.trial == Trial(
        folder / "task.jsonl", folder / "text.txt", ("f1 >= 0",), (("laptop-8gb", ("kld <= 1",)),), 2, 64
    )
    assert spec.devices[0].context == 256 and spec.intended_use == "orders"
    path.write_text('name = "tiny"\nbase = "base"\n[targets.laptop-8gb]\ngates = "f1 >= 0"\n')
    with pytest.raises(InputError, match=r"targets.laptop-8gb.gates is no list") as caught:
        read_project(path)
    assert caught.value.path == os.fspath(path)


def test_nothing_is_measured_unasked(tried: BuildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_rows", None)
    (one,) = build(replace(tried, trial=Trial(), quantizations=("Q8_0",)))
    assert one.manifest.quality is None and one.manifest.speed is None
