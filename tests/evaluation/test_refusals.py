"""What can't be evaluated is said before a model runs, and before a reference is built."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgekit.build
from edgekit import gates
from edgekit.errors import BundleError, EdgekitError, InputError
from edgekit.evaluate import Plan, evaluate
from edgekit.evaluation import running
from edgekit.evaluation.subjects import open_subjects
from tests.evaluation.conftest import SCHEMA
from tests.models import write_llama


@pytest.fixture
def plan(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """One that would do; but nothing may be run or built."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("work began")

    for place, name in ((running, "read"), (running, "answer"), (running, "speed"), (edgekit.build, "build")):
        monkeypatch.setattr(place, name, refuse)
    bundles = (tiny / "dist" / "tiny-q4_0",)
    return Plan(bundles, reference=tiny / "base", task=tiny / "task.jsonl", text=tiny / "text.txt", chunk=64)


def refused(plan: Plan, kind: type[EdgekitError] = InputError, **changes: Any) -> str:
    with pytest.raises(kind) as caught:
        evaluate(replace(plan, **changes))
    return str(caught.value)


def test_the_plan_itself(plan: Plan, tiny: Path) -> None:
    with pytest.raises(AssertionError, match="work began"):
        evaluate(plan)  # it would do
    assert "nothing to evaluate on" in refused(plan, task=None, text=None)
    assert "a bundle's folder or a .gguf file" in refused(plan, bundles=())
    assert "named twice" in refused(plan, bundles=plan.bundles * 2)
    assert "pass the reference, too" in refused(plan, reference=None, adapters=((tiny, 1.0),))
    assert "F16, F32, BF16" in refused(plan, reference_type="Q8_0")


@pytest.mark.parametrize(
    ("gate", "changes", "said"),
    [
        ("kld <= 1", {"reference": None}, "kld takes a reference"), ("flips <= 0", {"task": None}, "flips takes a task"),
        ("ppl <= 9", {"text": None}, "pass --text"), ("decode_tps >= 1", {"speed": False}, "--no-speed"),
        ("accuracy >= 0.5", {"schema": {"type": "object", "properties": {}}}, "no field of the schema takes one of a few labels"),
    ],
)  # fmt: skip
def test_a_gate_on_what_is_not_measured(plan: Plan, gate: str, changes: dict[str, Any], said: str) -> None:
    message = refused(plan, gates=(gates.parse(gate),), **changes)
    assert "the gate can't be judged" in message and said in message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"id": "r0", "text": "x", "expected": {"category": "Postage"}}, "doesn't match the bundle's output schema"),
        ({"id": "r0", "text": "x", "expected": {"kind": "gin", "name": None}}, "'gin' is not one of"),
        ({"id": "r0", "text": "x"}, "no expected"), ({"text": "x", "expected": {}}, "no id"), (None, "no labelled record"),
        ([{"id": "r0", "text": "x", "expected": {"kind": "tea", "name": None}}] * 2, "line 2: the id comes twice"),
    ],
)  # fmt: skip
def test_tasks_that_do_not_fit(plan: Plan, tmp_path: Path, line: Any, said: str) -> None:
    path, lines = tmp_path / "t.jsonl", line if isinstance(line, list) else [line] if line else []
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    message = refused(plan, task=path)
    assert said in message and str(path) in message


def test_texts_and_tasks_that_are_no_text(plan: Plan, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"\xff\xfe" * 100)
    assert "not UTF-8 text" in refused(plan, task=bad) and "not UTF-8 text" in refused(plan, text=bad)
    missing = tmp_path / "none"
    assert "is missing" in refused(plan, task=missing) and "is missing" in refused(plan, text=missing)
    bad.write_text("short")
    assert "the text is shorter than one chunk" in refused(plan, text=bad)
    assert "a chunk is too short" in refused(plan, chunk=4)
    assert "longer than the model's context" in refused(plan, chunk=257)


def test_prompts_and_schemas(plan: Plan, tiny: Path, tmp_path: Path) -> None:
    assert "no place for the text: {text}" in refused(plan, prompt="hello")
    assert "type" in refused(plan, schema={"type": "nonsense"})
    bare = (tiny / "dist" / "tiny-q4_0" / "model.gguf",)
    assert "there is no prompt to ask" in refused(plan, bundles=bare)
    assert "there is no schema to ask" in refused(plan, bundles=bare, prompt="{text}")


def asking(bundle: Path, out: Path, **question: Any) -> Path:
    """A copy of a bundle that asks otherwise."""
    shutil.copytree(bundle, out)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | question))
    return out


@pytest.mark.parametrize(
    ("question", "what"),
    [({"prompt": "{text}!"}, "prompt"), ({"system": "Be kind."}, "system"), ({"output_schema": {**SCHEMA, "required": []}}, "schema")],
)  # fmt: skip
def test_bundles_that_ask_differently(
    tiny: Path, tmp_path: Path, question: dict[str, Any], what: str
) -> None:
    other = asking(tiny / "dist" / "tiny-f32", tmp_path / "other", **question)
    plan = Plan((tiny / "dist" / "tiny-q4_0", other), task=tiny / "task.jsonl", speed=False)
    message = refused(plan)
    assert "the bundles ask differently" in message and f"another {what}" in message
    if what != "system":
        own: dict[str, Any] = {"prompt": "{text}"} if what == "prompt" else {"schema": SCHEMA}
        assert len(evaluate(replace(plan, **own)).rows) == 2


def test_a_reference_with_another_tokenizer_is_not_even_built(plan: Plan, tiny: Path, tmp_path: Path) -> None:
    other = write_llama(tmp_path / "other", vocab_size=400)
    message = refused(plan, reference=other)
    assert "another tokenizer" in message and "400 tokens" in message and str(other) in message
    same_size = write_llama(tmp_path / "same")
    words = json.loads((same_size / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    one, two = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (same_size / "tokenizer.json").write_text(json.dumps(words))
    assert "another tokenizer" in refused(plan, reference=same_size)


def test_references_that_are_none(plan: Plan, tiny: Path, tmp_path: Path) -> None:
    assert "there is no model here" in refused(plan, reference=tmp_path / "none")
    bundle = tiny / "dist" / "tiny-f32"
    assert "adapters go onto a checkpoint" in refused(plan, reference=bundle, adapters=((tiny, 1.0),))
    (tmp_path / "file.gguf").write_bytes(b"GGUF")
    refused(plan, reference=tmp_path / "file.gguf")
    # With a task alone, too, it is looked at before anything is built.
    shutil.copytree(tiny / "base", tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"hidden_size": 128}))
    assert "shape" in refused(plan, EdgekitError, text=None, reference=tmp_path / "base")


def test_a_damaged_bundle(plan: Plan, tmp_path: Path) -> None:
    copy = tmp_path / "b"
    shutil.copytree(plan.bundles[0], copy)
    data = bytearray((copy / "model.gguf").read_bytes())
    data[-100] ^= 1
    (copy / "model.gguf").write_bytes(data)
    assert "not what was built" in refused(plan, BundleError, bundles=(copy,))
    assert "not a bundle" in refused(plan, EdgekitError, bundles=(tmp_path,))


def test_every_label_is_one_models(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny / "dist" / "tiny-q4_0" / "model.gguf"
    for name in ("reference", "a/x", "b/x", "c", "d/a/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(model, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names = [Path("a/x"), Path("b/x"), Path("c")]
    assert [one.label for one in open_subjects(names)] == ["a/x", "b/x", f"{tmp_path.name}/c"]
    assert [one.label for one in open_subjects(names[1:])] == ["x", "c"]
    assert [one.label for one in open_subjects([Path("reference")])] == [f"{tmp_path.name}/reference"]
    some = open_subjects([Path("d/a/x"), Path("a/x")])
    assert [one.label for one in some] == [str(tmp_path / "d" / "a" / "x"), str(tmp_path / "a" / "x")]
