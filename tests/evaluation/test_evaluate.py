"""Whole evaluations of tiny bundles: what is measured, what is kept, how it goes."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest

from edgekit import gates
from edgekit.errors import BundleError
from edgekit.evaluate import Evaluation, Plan, document, evaluate, measured
from edgekit.evaluation import kept, running, unsound
from edgekit.evaluation.running import Speed, together
from edgekit.evaluation.subjects import open_subjects
from edgekit.progress import Progress
from tests.evaluation.conftest import write_task


@pytest.fixture
def plan(tiny: Path) -> Plan:
    """Q4_0 beside F32, on everything but speed."""
    return Plan(
        bundles=(tiny / "dist" / "tiny-q4_0",),
        reference=tiny / "dist" / "tiny-f32",
        task=tiny / "task.jsonl",
        text=tiny / "text.txt",
        chunk=64,
        speed=False,
        threads=1,
    )


class Heard(Progress):
    """What was said of the progress."""

    def __init__(self) -> None:
        self.stages: list[list[Any]] = []

    def stage(self, name: str, total: int) -> None:
        self.stages.append([name, total, 0])

    def advance(self, what: str, amount: int) -> None:
        self.stages[-1][2] += amount


def figures(found: Evaluation) -> list[dict[str, float]]:
    rows = [*found.rows, *([found.reference] if found.reference else [])]
    return [measured(row) for row in rows]


def test_everything_of_a_text_and_a_task(plan: Plan) -> None:
    heard = Heard()
    wanted = ("kld <= 10", "f1 >= 0", "size <= 1kB", "accuracy >= 0")
    found = evaluate(replace(plan, gates=tuple(map(gates.parse, wanted))), heard)
    row, reference = found.rows[0], found.reference
    assert reference is not None and (row.label, reference.label) == ("tiny-q4_0", "reference")
    assert (row.quantization, reference.quantization) == ("Q4_0", "F32")
    assert row.size == (plan.bundles[0] / "model.gguf").stat().st_size
    assert row.text and row.text.reference and row.task and row.task.reference
    assert reference.text and not reference.text.reference and reference.task and not reference.task.reference
    assert 0 < row.text.reference.kld.value < 1 and row.text.chunk == 64 and row.task.records == 12
    assert set(gates.METRICS) - set(measured(row)) == {"memory", "decode_tps", "prompt_tps"}
    assert [one.passed for one in found.verdicts["tiny-q4_0"]] == [True, True, False, True]
    assert all(done == total > 0 for _, total, done in heard.stages) and len(heard.stages) >= 4
    plain = document(found)
    assert json.loads(json.dumps(plain, allow_nan=False))["passed"] is False
    assert plain["bundles"][0]["measured"] == measured(row)
    assert plain["bundles"][0]["gates"][2] == {"gate": "size <= 1kB", "measured": row.size, "passed": False}


def test_what_is_known_is_not_measured_again(
    plan: Plan, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(plan)
    files = sorted(cache.glob("*.json"))
    assert len(files) == 4  # the text and the answers of each
    calls: list[str] = []
    monkeypatch.setattr(running, "read", spy(running.read, calls))
    monkeypatch.setattr(running, "answer", spy(running.answer, calls))
    assert figures(evaluate(plan)) == figures(first) and not calls
    # Gates and seeds are no measurements.
    evaluate(replace(plan, seed=1, gates=(gates.parse("f1 >= 1"),)))
    assert not calls
    assert figures(evaluate(replace(plan, cached=False))) == figures(first)
    assert calls == ["read", "answer", "answer"]
    files[0].write_bytes(b"{")
    files[1].write_bytes(b'{"chunk": "no"}')
    calls.clear()
    assert figures(evaluate(plan)) == figures(first) and calls


def spy(real: Any, calls: list[str]) -> Any:
    def wrapper(*arguments: Any, **named: Any) -> Any:
        calls.append(real.__name__)
        return real(*arguments, **named)

    return wrapper


@pytest.mark.parametrize(
    "change", ["text", "chunk", "chunks", "reference", "task", "prompt", "schema", "model"]
)
def test_what_a_result_depends_on(
    plan: Plan, tiny: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(plan)
    calls: list[str] = []
    monkeypatch.setattr(running, "read", spy(running.read, calls))
    monkeypatch.setattr(running, "answer", spy(running.answer, calls))
    text = tmp_path / "text.txt"
    text.write_text((tiny / "text.txt").read_text() + "More of it, and more.")
    schema = open_subjects([plan.bundles[0]])[0].schema
    changes: dict[str, tuple[dict[str, Any], int]] = {
        "text": ({"text": text}, 1),
        "chunk": ({"chunk": 32}, 1),
        "chunks": ({"chunks": 1}, 1),
        "reference": ({"reference": None}, 1),  # alone it is another result than beside one
        "task": ({"task": write_task(tmp_path / "t.jsonl", 9)}, 2),
        "prompt": ({"prompt": "{text}?"}, 2),
        "schema": ({"schema": {**(schema or {}), "required": ["kind"]}}, 2),
        "model": ({"bundles": (tiny / "dist" / "tiny-f32",), "reference": plan.bundles[0]}, 1),
    }
    change_of, count = changes[change]
    evaluate(replace(plan, **change_of))
    assert len(calls) == count


def test_labels_may_change_without_a_new_answer(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = evaluate(replace(plan, text=None))
    monkeypatch.setattr(running, "answer", None)
    assert plan.task
    (tmp_path / "t.jsonl").write_text(plan.task.read_text().replace('"Ann"}', '"Bob"}'))
    after = evaluate(replace(plan, text=None, task=tmp_path / "t.jsonl"))
    assert before.task_sha256 != after.task_sha256


def test_the_oldest_results_go_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "LIMIT", 2)
    for at in range(4):
        kept.put(str(at), at)
        os.utime(cache / f"{at}.json", (at, at))
    assert [kept.get(str(at), int) for at in range(4)] == [None, None, 2, 3]
    assert kept.get("3", str) is None and kept.key("a", x=1) != kept.key("b", x=1) != kept.key("b", x=2)


def test_a_cache_that_can_not_be_written_is_no_error(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert evaluate(replace(plan, task=None)).rows[0].text


def test_a_checkpoint_as_reference_is_built(plan: Plan, tiny: Path, cache: Path) -> None:
    by_bundle = evaluate(replace(plan, task=None))
    known = len(list(cache.glob("*.json")))
    by_checkpoint = evaluate(replace(plan, task=None, reference=tiny / "base", reference_type="F32"))
    assert figures(by_bundle) == figures(by_checkpoint)
    assert by_checkpoint.reference and by_checkpoint.reference.quantization == "F32"
    assert by_checkpoint.reference.path == str(tiny / "base")
    assert len(list(cache.glob("*.json"))) > known  # its name is another, so its bytes are


def test_a_quantized_reference_is_noted(plan: Plan, tiny: Path) -> None:
    turned = replace(plan, bundles=(tiny / "dist" / "tiny-f32",), reference=plan.bundles[0], task=None)
    assert evaluate(turned).notes == ["the reference is quantized itself: Q4_0"]


def test_one_model_twice_is_the_same(plan: Plan, tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "again"
    shutil.copytree(tiny / "dist" / "tiny-f32", copy)
    found = measured(evaluate(replace(plan, bundles=(copy, *plan.bundles))).rows[0])
    nothing = ("kld", "kld_max", "dp_rms", "flips", "f1_drop", "lost")
    assert [found[name] for name in nothing] == [0] * len(nothing) and found["same_top"] == found[
        "ppl_ratio"
    ] == 1


def test_speed_is_kept_unless_the_machine_was_busy(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [Speed(1.0, 2.0, 3, 1, busy=0.5), Speed(4.0, 5.0, 6, 1, busy=0.0)]
    monkeypatch.setattr(running, "speed", lambda *_: taken.pop(0))
    plan = replace(plan, task=None, speed=True)
    assert [measured(evaluate(plan).rows[0])["decode_tps"] for _ in range(3)] == [2.0, 5.0, 5.0]


def poisoned(source: Path, target: Path, tensor: str) -> Path:
    """A copy with one weight that is NaN."""
    shutil.copy(source, target)
    reader = gguf.GGUFReader(target, "r+")
    next(one for one in reader.tensors if one.name == tensor).data[-1, 5] = np.nan
    return target


def test_nan_weights_are_named(
    plan: Plan, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unsound, "_PART", 64 * 7)  # several parts of a tensor
    sound = tiny / "dist" / "tiny-f32" / "model.gguf"
    bad = poisoned(sound, tmp_path / "bad.gguf", "blk.1.ffn_up.weight")
    assert unsound.first_unsound(sound) is None
    either: list[dict[str, Any]] = [
        {"task": None, "reference": bad},
        {"text": None, "bundles": (plan.bundles[0], bad)},
    ]
    for changes in either:
        with pytest.raises(BundleError, match="logits are not finite") as caught:
            evaluate(replace(plan, **changes))
        assert "tensor blk.1.ffn_up.weight" in str(caught.value) and caught.value.path == str(bad)


def test_models_that_fit_the_memory_are_read_together(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_subjects([tiny / "dist" / "tiny-f32"])[0]
    some = [replace(one, label=str(at), size=10) for at in range(5)]

    def groups(room: int) -> list[int]:
        monkeypatch.setattr(
            "psutil.virtual_memory", lambda: SimpleNamespace(available=room / 0.7 + 1, total=1 << 40)
        )
        return [len(group) for group in together(replace(one, size=10), some)]

    assert groups(120) == [5] and groups(119) == [4, 1] and groups(60) == [2, 2, 1] and groups(0) == [1] * 5
