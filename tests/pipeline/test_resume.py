"""What a run may go on from, and what it refuses, by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import InputError
from edgekit.pipeline import Interval, Job, extract_files
from edgekit.pipeline.readers import Fields
from tests.pipeline.runs import resume, stopped
from tests.pipeline.stand_ins import SCHEMA, ChainModel, bundle, given, job_in, write_input


def test_only_the_epoch_that_is_under_way_is_asked_again(job: Job) -> None:
    model = ChainModel()
    summary = resume(job, model)
    assert len(model.asked) == 200 - 96
    assert (summary.records, summary.new, summary.differ, summary.already_finished) == (200, 100, 0, False)


CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "schema": ("schema", {"schema": {**SCHEMA, "title": "other"}}),
    "prompt": ("prompt", {"prompt": "Fields of {text}"}),
    "confidence": ("--min-confidence", {"min_confidence": 0.6}),
    "tokens": ("--max-tokens", {"max_tokens": 9}),
    "context": ("--ctx", {"n_ctx": 99}),
    "parallel": ("--parallel", {"n_parallel": 3}),
    "format": ("--format", {"format": "csv"}),
    "no review": ("--review", {"review": None}),
    "id field": ("--id-field", {"fields": Fields(id="id")}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_option_is_named(change: str, job: Job) -> None:
    name, changes = CHANGES[change]
    before = job.out.read_bytes()
    with pytest.raises(InputError, match=f"100 records are written, but {name} changed since") as caught:
        resume(job, **changes)
    assert "--restart" in str(caught.value)
    assert job.out.read_bytes() == before
    resume(job)
    with pytest.raises(InputError, match=f"200 records are written, but {name} changed since"):
        resume(job, **changes)
    assert resume(job, **changes, restart=True).records == 200


def test_what_changes_nothing_may_change(job: Job) -> None:
    assert resume(job, threads=3, sync=Interval(seconds=1), max_errors=99, verify=True).records == 200


def test_a_changed_bundle_is_named(job: Job) -> None:
    job.bundle.write_bytes(b"GGUF2")
    with pytest.raises(InputError, match="but bundle changed since"):
        resume(job)


def test_a_model_that_batches_otherwise_is_refused(job: Job) -> None:
    with pytest.raises(InputError, match="batches records in another way") as caught:
        resume(job, ChainModel(epoch=8))
    assert (caught.value.found, caught.value.expected) == ("epochs of 8 records", "epochs of 16 records")


def test_a_model_that_computes_otherwise_changes_nothing_that_is_written(job: Job) -> None:
    before = job.out.read_bytes()
    summary = resume(job, ChainModel(drift=1))
    assert job.out.read_bytes().startswith(before)
    assert summary.differ == 4  # records 96 to 99, all of which are answered


EDITS: dict[str, Callable[[bytes], bytes]] = {
    "another text": lambda data: data.replace(b"record 50", b"record 5x"),
    "another id": lambda data: data.replace(b'"r50"', b'"r5x"'),
    "a line less": lambda data: data.replace(b'{"id": "r51"', b'{"no": "r51"'),
    "a line more": lambda data: b'{"text": "new"}\n' + data,
    "cut short": lambda data: b"".join(data.splitlines(True)[:99]),
    "another fault": lambda data: data.replace(b"\xff", b"\xfe"),
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_changed_input_is_refused(edit: str, job: Job) -> None:
    path = Path(job.inputs[0])
    whole, before = path.read_bytes(), job.out.read_bytes()
    path.write_bytes(EDITS[edit](whole))
    assert path.read_bytes() != whole
    with pytest.raises(InputError, match="the input changed: 100 records of it are done") as caught:
        resume(job)
    assert caught.value.path == job.inputs[0]
    assert job.out.read_bytes() == before
    path.write_bytes(whole)
    assert resume(job).records == 200


def test_of_several_inputs_the_changed_one_is_named(tmp_path: Path) -> None:
    bundle(tmp_path)
    names = [tmp_path / f"{n}.jsonl" for n in range(3)]
    for number, name in enumerate(names):
        write_input(name, 30 + number)
    job = job_in(tmp_path, inputs=tuple(map(str, names)))
    stopped(job, 80)
    whole = names[1].read_bytes()
    for changed in (
        whole.replace(b"record 3", b"record X"),
        whole + b'{"text": "x"}\n',
        whole[: whole.rfind(b"{")],
    ):
        names[1].write_bytes(changed)
        with pytest.raises(InputError, match="the input changed") as caught:
            resume(job)
        assert caught.value.path == str(names[1])
    names[1].write_bytes(whole)
    assert resume(job).records == 93


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_a_finished_output_grows_with_its_input(name: str, tmp_path: Path) -> None:
    """A log that is appended to: the output is that of one run over all of it, where epochs allow."""
    bundle(tmp_path)
    write_input(tmp_path / "in.jsonl", 100)
    job = job_in(tmp_path, name)
    assert resume(job).records == 100
    write_input(tmp_path / "in.jsonl", 50, start=100)
    summary = resume(job)
    assert (summary.records, summary.new, summary.differ) == (150, 50, 0)
    write_input(tmp_path / "more.jsonl", 20)
    summary = resume(job, inputs=(*job.inputs, str(tmp_path / "more.jsonl")))
    assert (summary.records, summary.new) == (170, 20)
    other = job_in(tmp_path, f"whole-{name}", inputs=(*job.inputs, str(tmp_path / "more.jsonl")), review=None)
    resume(other)
    assert job.out.read_bytes() == other.out.read_bytes()


@pytest.mark.parametrize("name", ["out.sqlite", "out.parquet"])
def test_a_finished_table_does_not(name: str, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    bundle(tmp_path)
    write_input(tmp_path / "in.jsonl", 100)
    job = job_in(tmp_path, name)
    resume(job)
    write_input(tmp_path / "in.jsonl", 50, start=100)
    with pytest.raises(InputError, match="the input has grown"):
        resume(job)
    job.out.unlink()
    with pytest.raises(InputError, match="is gone"):
        resume(job)
    assert resume(job, restart=True).records == 150


def test_standard_input_goes_on_if_the_same_comes_again(tmp_path: Path) -> None:
    bundle(tmp_path)
    data = b"".join(b"line %d\n" % n for n in range(60))
    job = job_in(tmp_path, inputs=("-",))

    stopped(job, 33, stdin=io.BytesIO(data))
    for other in (b"", data.replace(b"7", b"x"), data[1:]):
        with pytest.raises(InputError, match="the input changed"):
            extract_files(job, load=given(ChainModel()), stdin=io.BytesIO(other))
    assert extract_files(job, load=given(ChainModel()), stdin=io.BytesIO(data)).records == 60
    assert extract_files(job, load=given(ChainModel()), stdin=io.BytesIO(data)).already_finished
