"""Calibrating: data checked before a weight is read, tokens as llama-imatrix cuts them, and what becomes of the matrix."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers

from edgekit import importance, importance_data, importance_worker, orders
from edgekit.build import build
from edgekit.buildcache import build_cached
from edgekit.bundle import Bundle
from edgekit.converters.gguf import imatrix
from edgekit.errors import BundleError, HardwareError, InputError
from edgekit.importance import Options, calibrate
from edgekit.importance_worker import Collect
from edgekit.plan import candidates
from edgekit.progress import Progress
from edgekit.project import BuildSpec
from edgekit.runtimes.fake import FakeEngine
from tests.conftest import ROOT
from tests.models import attention_modules, llama_config, lora_arrays, write_adapter, write_llama

SIZES: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
WEIGHTS = 7
TEXT = "Table for two, please: tomorrow at seven. " * 20
SCHEMA = {"type": "object", "properties": {"people": {"type": "string"}}, "required": ["people"]}
RECORDS = [
    {"id": str(index), "text": f"A table for {index} at eight", "expected": {"people": str(index)}}
    for index in range(30)
]


def write_records(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_llama(tmp_path_factory.mktemp("tiny") / "base", **SIZES)
    words = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(words | {"add_bos_token": True}))
    return folder


@pytest.fixture
def spec(base: Path, tmp_path: Path) -> BuildSpec:
    return BuildSpec(base, tmp_path / "out", "tiny", quantizations=("Q3_K_M",), prompt="Find people: {text}")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def digest(sequences: list[list[int]]) -> str:
    """As the documentation has it: every sequence's length and ids, 32 bits each, little-endian."""
    flat = [number for one in sequences for number in (len(one), *one)]
    return hashlib.sha256(struct.pack(f"<{len(flat)}i", *flat)).hexdigest()


def ids_of(base: Path, said: str) -> list[int]:
    """By ``tokenizers``, which is not what edgekit tokenizes with."""
    tokenizer = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    ids: list[int] = tokenizer.encode(said, add_special_tokens=False).ids
    return ids


def test_a_text_is_cut_into_chunks_that_begin_with_bos(
    base: Path, spec: BuildSpec, text: Path, tmp_path: Path
) -> None:
    found = calibrate(spec, text, tmp_path / "m.gguf", Options(chunk=64))
    bos = ids_of(base, "<|begin_of_text|>")
    ids = [*bos, *ids_of(base, TEXT)]
    chunks = [[*bos, *ids[at + 1 : at + 64]] for at in range(0, len(ids) - 63, 64)]
    assert len(chunks) > 3 and all(len(chunk) == 64 for chunk in chunks)
    assert (found.sequences, found.tokens, found.weights) == (len(chunks), 64 * len(chunks), WEIGHTS)
    assert found.tokens_sha256 == digest(chunks)
    matrix = imatrix.read(tmp_path / "m.gguf")
    assert (matrix.dataset, matrix.chunks) == ("text.txt", len(chunks))
    assert matrix.tokens == imatrix.Tokens(found.tokens, found.tokens_sha256)
    counts = {t.name: t.data.reshape(-1).tolist() for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert counts["blk.0.ffn_up.weight.counts"] == [found.tokens]
    fewer = calibrate(spec, text, tmp_path / "fewer.gguf", Options(chunk=64, chunks=2))
    assert fewer.tokens_sha256 == digest(chunks[:2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fewer.gguf", "m.gguf", "text.txt"]


def test_records_are_asked_as_the_model_will_be(base: Path, spec: BuildSpec, tmp_path: Path) -> None:
    data = write_records(tmp_path / "task.jsonl", RECORDS)
    found = calibrate(replace(spec, output_schema=SCHEMA), data, tmp_path / "m.gguf")
    # The chat template of the tests' tokenizers.
    expected = [
        ids_of(
            base,
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
            f"Find people: {one['text']}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        )
        + ids_of(base, json.dumps(one["expected"], separators=(",", ":")))
        for one in RECORDS
    ]
    assert found.tokens_sha256 == digest(expected)
    assert (found.sequences, found.tokens) == (30, sum(map(len, expected)))


def test_conversations_and_texts_are_read_as_they_stand(base: Path, spec: BuildSpec, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello! " * 9}]
    data = write_records(tmp_path / "mixed.jsonl", [{"messages": messages}, {"text": "Plain " * 30}])
    found = calibrate(replace(spec, prompt=None), data, tmp_path / "m.gguf", Options(chunk=32))
    turns = (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{('Hello! ' * 9).strip()}<|eot_id|>"
    )
    both = [ids_of(base, turns), ids_of(base, "<|begin_of_text|>") + ids_of(base, "Plain " * 30)]
    pieces = [ids[at : at + 32] for ids in both for at in range(0, len(ids), 32)]
    assert found.tokens == sum(map(len, pieces))
    assert found.tokens_sha256 == digest(pieces)


def test_the_merged_model_is_what_is_measured(
    base: Path, spec: BuildSpec, text: Path, tmp_path: Path
) -> None:
    arrays = lora_arrays(llama_config(**SIZES), attention_modules(1, ("v_proj",)))
    lora = write_adapter(tmp_path / "lora", arrays, target_modules=["v_proj"])
    merged = replace(spec, adapters=((lora, 4.0),))
    paths = [tmp_path / f"{name}.gguf" for name in ("base", "merged", "again")]
    for one, path in zip((spec, merged, merged), paths, strict=True):
        calibrate(one, text, path, Options(chunk=64))
    assert paths[1].read_bytes() == paths[2].read_bytes()
    plain, changed = (imatrix.read(path).values for path in paths[:2])
    given, after = "blk.0.attn_v.weight", "blk.0.attn_output.weight"
    assert np.array_equal(plain[given], changed[given])  # nothing before it was changed
    assert not np.allclose(plain[after], changed[after], rtol=0.1)


def test_a_gguf_base_is_run_as_it_is(spec: BuildSpec, text: Path, tmp_path: Path) -> None:
    (built,) = build(replace(spec, quantizations=("Q8_0",)))
    calibrate(replace(spec, base=built.folder / "model.gguf"), text, tmp_path / "a.gguf", Options(chunk=64))
    calibrate(spec, text, tmp_path / "b.gguf", Options(chunk=64))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


class Noted(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: dict[str, int] = {}
        self.totals: dict[str, int] = {}
        self._stage = ""

    def stage(self, name: str, total: int) -> None:
        self._stage, self.totals[name], self.done[name] = name, total, 0

    def advance(self, what: str, amount: int) -> None:
        self.done[self._stage] += amount

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_build_calibrates_in_one_go(spec: BuildSpec, tmp_path: Path) -> None:
    data = write_records(tmp_path / "task.jsonl", RECORDS)
    kinds = ("Q3_K_M", "IQ2_XXS")
    progress = Noted()
    both = build(replace(spec, quantizations=kinds, calibration=data), progress)
    assert progress.done == progress.totals and len(progress.totals) == 4 and not progress.notes
    found = calibrate(spec, data, tmp_path / "imatrix.gguf")
    apart = build(
        replace(spec, quantizations=kinds, out=tmp_path / "apart", calibration=tmp_path / "imatrix.gguf")
    )
    for one, other in zip(both, apart, strict=True):
        assert (one.folder / "model.gguf").read_bytes() == (other.folder / "model.gguf").read_bytes()
        calibration = Bundle.open(one.folder).manifest.provenance.calibration
        assert calibration == other.manifest.provenance.calibration and calibration is not None
        assert (calibration.name, calibration.tokens) == ("task.jsonl", found.tokens)
        assert calibration.tokens_sha256 == found.tokens_sha256
        written = hashlib.sha256((tmp_path / "imatrix.gguf").read_bytes()).hexdigest()
        assert [(file.path, file.sha256) for file in calibration.files] == [("imatrix.gguf", written)]
    assert sorted(path.name for path in spec.out.iterdir()) == ["tiny-iq2_xxs", "tiny-q3_k_m"]
    plain = build(replace(spec, out=tmp_path / "plain"))[0]
    assert (plain.folder / "model.gguf").read_bytes() != (both[0].folder / "model.gguf").read_bytes()
    planned = candidates(replace(spec, calibration=data))
    sizes = {one.artifact.quantization: one.artifact.shape.file_bytes for one in planned.every}
    assert {one.manifest.quantization: one.size for one in both} == {kind: sizes[kind] for kind in kinds}


def write_matrix(path: Path, names: list[str], columns: int = 256) -> Path:
    sums = {name: (np.ones((1, columns)), np.array([4])) for name in names}
    imatrix.write(path, sums, "x", (1, 16), imatrix.Tokens(16, "0" * 64))
    return path


def test_weights_that_the_matrix_lacks_are_noted(spec: BuildSpec, tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path / "m.gguf", ["blk.0.ffn_up.weight"])
    progress = Noted()
    build(replace(spec, quantizations=("Q3_K_M", "Q8_0"), calibration=matrix), progress)
    (note,) = progress.notes
    assert "no values for 6 weight(s)" in note and "blk.0.attn_" in note


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (["blk.0.ffn_up.weight", "blk.9.ffn_up.weight"], 256, "doesn't have"),
        (["blk.0.ffn_up.weight"], 128, "sizes"),
    ],
)
def test_a_matrix_of_another_model(
    spec: BuildSpec, tmp_path: Path, names: list[str], columns: int, message: str
) -> None:
    matrix = write_matrix(tmp_path / "m.gguf", names, columns)
    with pytest.raises(InputError, match=message):
        build(replace(spec, calibration=matrix))
    assert not spec.out.exists()


TASK = RECORDS[0]
BAD: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.txt", b"", "is empty"),
    "blank": ("a.jsonl", b" \n\n", "is empty"),
    "not UTF-8": ("a.txt", b"caf\xe9 " * 500, "UTF-8 text, JSONL records"),
    "a .dat matrix": ("a.dat", struct.pack("<ii", 1, 1) + b"a" * 90, "zero byte"),
    "JSON": ("a.json", b"{}", "one a line"),
    "not JSON": ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not readable as JSON"),
    "an array": ("a.jsonl", b"[1]\n", "line 1: not a JSON object"),
    "no text": ("a.jsonl", b'{"id": "1", "expected": {}}\n', "line 1: no record"),
    "an empty text": ("a.jsonl", b'{"text": " "}\n', "line 1: no record"),
    "no turns": ("a.jsonl", b'{"messages": []}\n', "line 1: no conversation"),
    "ids": ("a.jsonl", (json.dumps(TASK) + "\n").encode() * 2, "line 2: the id comes twice"),
    "expected": ("a.jsonl", b'{"text": "a", "expected": 3}\n', "line 1: what is expected is no object"),
    "schema": ("a.jsonl", b'{"text": "a", "expected": {"people": 3}}\n', "line 1: the label doesn't match"),
    "too little text": ("a.txt", b"just a few words", "too little"),
    "too few records": ("a.jsonl", json.dumps(TASK).encode(), "too little"),
    "a role": (
        "a.jsonl",
        b'{"messages": [{"role": "a b", "content": "x"}]}\n',
        "line 1: a message needs a role",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_before_a_weight_is_read(
    spec: BuildSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr("edgekit.converters.gguf.stream._Worker.do", read)
    file, data, message = BAD[name]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        calibrate(replace(spec, output_schema=SCHEMA), tmp_path / file, tmp_path / "m.gguf")
    assert str(tmp_path / file) in str(caught.value)
    with pytest.raises(InputError, match=message):
        build(replace(spec, output_schema=SCHEMA, calibration=tmp_path / file))
    assert sorted(path.name for path in tmp_path.iterdir()) in ([file], [file, "out"])
    assert not spec.out.exists() or not [*spec.out.iterdir()]


def test_other_refusals(spec: BuildSpec, text: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing"):
        calibrate(spec, tmp_path / "nothing.txt", tmp_path / "m.gguf")
    with pytest.raises(InputError, match="a task's record, and no prompt"):
        calibrate(
            replace(spec, prompt=None), write_records(tmp_path / "t.jsonl", RECORDS), tmp_path / "m.gguf"
        )
    with pytest.raises(InputError, match="longer than the model's context"):
        calibrate(spec, text, tmp_path / "m.gguf", Options(chunk=1 << 20))
    with pytest.raises(InputError, match="given twice"):
        replace(spec, imatrix=text, calibration=text)
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        calibrate(spec, text, tmp_path / "m.gguf", Options(chunk=64))
    assert (tmp_path / "m.gguf").read_text() == "mine"
    calibrate(replace(spec, force=True), text, tmp_path / "m.gguf", Options(chunk=64))
    assert importance.is_matrix(tmp_path / "m.gguf")


@pytest.mark.parametrize("change", [{"chunk": 15}, {"chunk": 1 << 21}, {"chunks": 0}, {"run_as": "Q4_0"}])
def test_options_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Options(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantizations": ("Q9",)}, "Q9"),
        ({"quantizations": ("Q3_K_M", "q3_k_m")}, "two bundles would have one name"),
        ({"tensor_types": ("ffn",)}, "ffn"),
        ({"tensor_types": ("nothing_like_it=q8_0",)}, "nothing_like_it"),
        ({}, "exists already"),
    ],
)
def test_a_build_that_cant_be_is_refused_before_calibrating(
    spec: BuildSpec, text: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    monkeypatch.setattr(importance, "_measured", lambda *_, **__: pytest.fail("it calibrated"))
    if not change:
        orders.folder_of(spec).mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        build(replace(spec, calibration=text, **change))


def test_a_process_that_dies_or_fails(
    spec: BuildSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Collect(str(tmp_path / "model.gguf"), str(tmp_path / "t"), "x", 16, 1, str(tmp_path / "m.gguf"))
    (tmp_path / "t").write_bytes(struct.pack("<3i", 2, 5, 6))
    with pytest.raises(InputError, match="no model here"):
        importance_worker.run(request)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises((InputError, BundleError), match="model.gguf"):
        importance_worker.run(request)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(HardwareError, match="has died"):
        importance_worker.run(request)


def test_without_a_chat_template(tmp_path: Path) -> None:
    engine = FakeEngine("", chat_template=None)
    task = write_records(tmp_path / "t.jsonl", RECORDS)
    (one, *_) = importance_data.sequences(importance_data.read(task, "Find: {text}", None), engine, 64)
    asked = "Find: A table for 0 at eight" + '{"people":"0"}'
    assert engine.add_bos and one == [engine.specials[engine.bos_token], *asked.encode()]
    for data in (
        importance_data.read(task, "Find: {text}", "You find people."),
        importance_data.read(write_records(tmp_path / "m.jsonl", [{"messages": [{"role": "user", "content": "x"}]}]),
                             None, None),
    ):  # fmt: skip
        with pytest.raises(InputError, match="line 1: messages need a chat template"):
            importance_data.sequences(data, engine, 16)


def test_llama_imatrix_found_the_same(data: Path, tmp_path: Path) -> None:
    """Its own file, made on another machine, of the first 2,048 tokens of these stories."""
    base = ROOT / "tests" / "data" / "stories260k"
    spec = BuildSpec(base, tmp_path, "stories")
    stories = data / "corpora" / "calibration" / "tiny.utf8"
    calibrate(spec, stories, tmp_path / "m.gguf", Options(chunk=128, chunks=16, run_as="F32"))
    theirs = imatrix.read(ROOT / "tests" / "data" / "imatrix" / "stories260k.imatrix.gguf")
    ours = imatrix.read(tmp_path / "m.gguf")
    assert ours.chunks == theirs.chunks == 16 and ours.values.keys() == theirs.values.keys()
    for name, values in theirs.values.items():
        np.testing.assert_allclose(ours.values[name], values, rtol=1e-3, err_msg=name)


def test_calibration_data_is_part_of_a_build_in_a_cache(
    spec: BuildSpec, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, cache = replace(spec, calibration=text), tmp_path / "cache"
    (built,) = build_cached(spec, cache)
    assert built.how == "built" and built.built.manifest.provenance.calibration
    with monkeypatch.context() as patch:
        patch.setattr(importance, "_measured", lambda *_, **__: pytest.fail("it calibrated"))
        assert [one.how for one in build_cached(spec, cache)] == ["unchanged"]
    text.write_text(TEXT + TEXT[:100])
    (again,) = build_cached(replace(spec, force=True), cache)
    assert again.how == "built" and again.key != built.key
    with pytest.raises(InputError, match="gone.txt"):
        build_cached(replace(spec, calibration=tmp_path / "gone.txt"), cache)
