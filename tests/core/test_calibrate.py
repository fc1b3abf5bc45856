"""Calibrating a bundle: labels checked, the map stored whole or not at all, and read back only where it belongs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import calibrate as room
from edgekit.bundle import Bundle, write_json
from edgekit.calibrate import Options, calibrate
from edgekit.confidence import Trace
from edgekit.confidence_map import load_confidence
from edgekit.errors import BundleError, InputError

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": ["string", "null"], "pattern": "^(a+)+$"}, "n": {"type": "integer"}},
    "required": ["name", "n"],
    "additionalProperties": False,
}
WEIGHTS = b"not really a model"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_bundle(folder: Path, **change: Any) -> Path:
    """A bundle whose model is never loaded."""
    folder.mkdir()
    (folder / "model.gguf").write_bytes(WEIGHTS)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "words.json").write_text("{}")
    files = [
        {"path": path, "size": len(data), "sha256": digest(data)}
        for path, data in (("model.gguf", WEIGHTS), ("tokenizer/words.json", b"{}"))
    ]
    manifest = {
        "schema_version": 1, "name": "b", "version": "1.2.0", "counter": 3, "format": "gguf", "quantization": "Q8_0",
        "files": files, "provenance": {"base": {"name": "base", "files": []}},
        "requirements": {"memory": {}, "runtime": "llama.cpp"}, "prompt": "Find: {text}", "output_schema": SCHEMA,
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest | change)
    return folder


def label(index: int, **change: Any) -> dict[str, Any]:
    return {"id": f"r{index}", "text": f"aa {index}", "expected": {"name": "aa", "n": index}} | change


def write_task(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def answers(texts: Sequence[str]) -> Iterator[tuple[str, Trace, Any]]:
    """Every third number is wrong, and mostly less sure; every tenth text has no answer."""
    random = np.random.default_rng(5)
    for index, text in enumerate(texts):
        if index % 10 == 9:
            yield text, Trace([b'{"name'], [0.0], [-np.inf]), None
            continue
        n, sure = index + (index % 3 == 0), -float(random.exponential(1.0 if index % 3 == 0 else 0.2))
        pieces = [b'{"name":"', b"aa", b'","n":', str(n).encode(), b"}"]
        trace = Trace(pieces, [0.0, -0.01, 0.0, sure, 0.0], [-np.inf, -5.0, -np.inf, sure - 1, -np.inf])
        yield text, trace, json.loads(trace.answer)


def opener(_: Bundle) -> AbstractContextManager[room.Extract]:
    return nullcontext(answers)


def unused(_: Bundle) -> AbstractContextManager[room.Extract]:
    raise AssertionError("the model was loaded before everything was checked")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write_task(tmp_path / "task.jsonl", [label(index) for index in range(120)])


def test_a_bundle_is_calibrated_and_still_whole(tmp_path: Path, task: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    assert load_confidence(Bundle.open(folder)) is None
    inode = (folder / "model.gguf").stat().st_ino
    manifest = calibrate(folder, task, opener)
    opened = Bundle.open(folder)
    assert opened.manifest == manifest and opened.problems() == []
    assert (folder / "model.gguf").stat().st_ino == inode  # gigabytes aren't copied
    assert [file.path for file in manifest.files] == ["confidence.json", "model.gguf", "tokenizer/words.json"]
    assert (manifest.version, manifest.counter) == ("1.2.0", 3)
    figures, fitted = manifest.confidence, load_confidence(opened)
    assert figures is not None and fitted is not None
    assert (figures.records, figures.failed, figures.overall.cases) == (108, 12, 108)
    assert figures.task == digest(task.read_bytes())
    # 4 of 12 numbers of a round of 30 are wrong where an answer was given
    right = sum(index % 3 != 0 for index in range(120) if index % 10 != 9)
    assert figures.overall.accuracy == pytest.approx(right / 108, abs=1e-6)
    assert figures.fields["name"].accuracy == 1
    assert set(fitted.fields) == {"name", "n"} and fitted.overall.cases == 108
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, task: Path) -> None:
    one, other = make_bundle(tmp_path / "one"), make_bundle(tmp_path / "other")
    for folder in (one, other):
        calibrate(folder, task, opener)
    for name in ("confidence.json", "manifest.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    before = (one / "manifest.json").read_bytes()
    calibrate(one, task, opener)  # again: the old map is replaced, not stacked
    assert (one / "manifest.json").read_bytes() == before


def test_a_released_bundle_counts_up(tmp_path: Path, task: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    with pytest.raises(InputError, match="only goes up") as caught:
        calibrate(folder, task, unused, Options(counter=3))
    assert (caught.value.found, caught.value.expected) == ("3", "above 3")
    assert calibrate(folder, task, opener, Options(counter=4)).counter == 4


def test_a_signature_is_dropped_only_when_asked(tmp_path: Path, task: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / "signature.json").write_text("{}")
    with pytest.raises(BundleError, match="signed") as caught:
        calibrate(folder, task, unused)
    assert "--drop-signature" in str(caught.value) and (folder / "signature.json").exists()
    calibrate(folder, task, opener, Options(drop_signature=True))
    assert not (folder / "signature.json").exists() and Bundle.open(folder).problems() == []


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path, task: Path) -> None:
    make_bundle(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    calibrate(tmp_path / "link", task, opener)
    assert (tmp_path / "link").is_symlink()
    assert load_confidence(Bundle.open(tmp_path / "real")) is not None


@pytest.mark.parametrize("change", [{"prompt": None}, {"output_schema": None}])
def test_a_bundle_without_prompt_or_schema(tmp_path: Path, task: Path, change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="no fields to be confident of"):
        calibrate(make_bundle(tmp_path / "b", **change), task, unused)


def test_a_damaged_bundle_isnt_blessed(tmp_path: Path, task: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / "model.gguf").write_bytes(WEIGHTS[::-1])
    with pytest.raises(BundleError, match="not what was built"):
        calibrate(folder, task, unused)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), InputError("x")]
)
def test_a_fault_leaves_the_bundle_as_it_was(
    tmp_path: Path, task: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    folder = make_bundle(tmp_path / "b")
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}

    def fail(path: Path, value: Any) -> None:
        if path.name == "manifest.json":
            raise error
        write_json(path, value)

    monkeypatch.setattr(room, "write_json", fail)
    expected = InputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected, match="writing the bundle failed" if isinstance(error, OSError) else None):
        calibrate(folder, task, opener)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "task.jsonl"]


def test_without_hard_links_files_are_copied(
    tmp_path: Path, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", refuse)
    folder = make_bundle(tmp_path / "b")
    calibrate(folder, task, opener)
    assert Bundle.open(folder).problems() == []


def test_answers_that_are_of_another_text(tmp_path: Path, task: Path) -> None:
    def mixed(texts: Sequence[str]) -> Iterator[tuple[str, Trace, Any]]:
        return answers(texts[::-1])

    def short(texts: Sequence[str]) -> Iterator[tuple[str, Trace, Any]]:
        return answers(texts[:-1])

    folder = make_bundle(tmp_path / "b")
    with pytest.raises(RuntimeError, match="another text"):
        calibrate(folder, task, lambda _: nullcontext(mixed))
    with pytest.raises(ValueError, match="shorter"):
        calibrate(folder, task, lambda _: nullcontext(short))
    assert load_confidence(Bundle.open(folder)) is None


def test_too_few_answers(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    few = write_task(tmp_path / "few.jsonl", [label(index) for index in range(49)])
    with pytest.raises(InputError, match="too few") as caught:
        calibrate(folder, few, unused)
    assert (caught.value.found, caught.value.expected) == ("49", "50 or more")
    enough = write_task(tmp_path / "enough.jsonl", [label(index) for index in range(52)])
    with pytest.raises(InputError, match="too few"):  # 5 of them have no answer
        calibrate(folder, enough, opener)


def test_folds_have_bounds() -> None:
    with pytest.raises(InputError, match="folds"):
        Options(folds=1)


@pytest.fixture
def calibrated(tmp_path: Path, task: Path) -> Path:
    folder = make_bundle(tmp_path / "b")
    calibrate(folder, task, opener)
    return folder


def rewrite(folder: Path, data: bytes) -> None:
    """Put other bytes in for the map, and their digest into the manifest."""
    (folder / "confidence.json").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    for file in manifest["files"]:
        if file["path"] == "confidence.json":
            file |= {"size": len(data), "sha256": digest(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"schema_version": 2}, "another version"), ({"schema_version": "1"}, "schema_version"), ({"more": 1}, "more"),
    ({"overall": {"weights": [0, 1, 1, 1, 1], "cases": 9}}, "overall: expected 4 finite"),
    ({"pooled": {"weights": [0, 1, 1], "cases": 9}}, "pooled: expected 5 finite"),
    ({"pooled": {"weights": [0, 1, 1, 1, None], "cases": 9}}, "pooled"),
    ({"pooled": {"weights": [0, 1e300, 1, 1, 1], "cases": 9}}, "finite"),
    ({"pooled": {"weights": [0, -1, 1, 1, 1], "cases": 9}}, "don't fall"),
    ({"fields": {"n": {"weights": [0, 1, -0.1, 1, 1], "cases": 9}}}, "fields.n"),
    ({"overall": {"weights": [0, 1, 1, 1], "cases": 0}}, "cases"),
    ({"overall": {"weights": [0, 1, 1, 1], "cases": 2.5}}, "cases"), ({"fields": []}, "fields"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_hostile_maps(calibrated: Path, change: dict[str, Any], message: str) -> None:
    good = json.loads((calibrated / "confidence.json").read_text())
    rewrite(calibrated, json.dumps(good | change).encode())
    with pytest.raises(BundleError, match=message):
        load_confidence(Bundle.open(calibrated))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"schema_version":NaN}',
        b"[" * 100_000,
        b'{"schema_version":1}',
        b" " * (5 << 20),
    ],
)
def test_maps_that_are_no_json(calibrated: Path, data: bytes) -> None:
    rewrite(calibrated, data)
    with pytest.raises(BundleError, match="unsound|too large"):
        load_confidence(Bundle.open(calibrated))


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_weights_that_are_no_numbers(calibrated: Path, number: str) -> None:
    good = json.loads((calibrated / "confidence.json").read_text())
    good["pooled"]["weights"][0] = 123.25
    rewrite(calibrated, json.dumps(good).replace("123.25", number).encode())
    with pytest.raises(BundleError, match="unsound"):
        load_confidence(Bundle.open(calibrated))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"prompt": "Other: {text}"}, "prompt"), ({"system": "Be brief."}, "prompt"),
        ({"output_schema": SCHEMA | {"properties": dict(reversed(SCHEMA["properties"].items()))}}, "output schema"),
    ],
)  # fmt: skip
def test_a_map_of_something_else(calibrated: Path, change: dict[str, Any], what: str) -> None:
    manifest = json.loads((calibrated / "manifest.json").read_text())
    (calibrated / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(BundleError, match=f"fitted for another {what}"):
        load_confidence(Bundle.open(calibrated))


def test_a_map_of_another_model(calibrated: Path, tmp_path: Path) -> None:
    manifest = json.loads((calibrated / "manifest.json").read_text())
    manifest["files"][1]["sha256"] = "0" * 64
    (calibrated / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="fitted for another model"):
        load_confidence(Bundle.open(calibrated))


def test_a_map_that_was_changed_or_halved(calibrated: Path, tmp_path: Path) -> None:
    shutil.copytree(calibrated, tmp_path / "halved")
    path = calibrated / "confidence.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"1", b"2", 1))
    with pytest.raises(BundleError, match="not what was fitted"):
        load_confidence(Bundle.open(calibrated))
    manifest = json.loads((tmp_path / "halved" / "manifest.json").read_text())
    for change in ({"confidence": None}, {"files": manifest["files"][1:]}):
        (tmp_path / "halved" / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(BundleError, match="half of a calibration"):
            load_confidence(Bundle.open(tmp_path / "halved"))
