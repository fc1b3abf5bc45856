"""Importance matrices in both formats, and all the ways in which one can be wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import imatrix, plan, presets, stream
from edgekit.converters.gguf.presets import Model
from edgekit.errors import InputError
from tests.converters.quantizer import assert_same_tensors, layout, quantize
from tests.models import write_llama

SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (4, 256), "blk.0.ffn_up.weight": (4, 256), "blk.0.ffn_down_exps.weight": (3, 4, 256),
}  # fmt: skip
SUMS = {
    "blk.0.ffn_up.weight": (np.arange(256, dtype=np.float32), [16.0]),
    # The second expert saw nothing: its columns count alike.
    "blk.0.ffn_down_exps.weight": (np.arange(768, dtype=np.float32).reshape(3, 256), [4.0, 0.0, 3.0]),
}


def write_gguf(path: Path, sums: Mapping[str, tuple[Any, list[float]]] = SUMS, **keys: Any) -> Path:
    writer = gguf.GGUFWriter(path, "none")
    found = {
        "datasets": ["/home/someone/calibration.txt", "more.txt"],
        "chunk_count": 7,
        "chunk_size": 512,
    } | keys
    writer.add_string("general.type", "imatrix")
    if found["datasets"] is not None:
        writer.add_array("imatrix.datasets", found["datasets"])
    writer.add_uint32("imatrix.chunk_count", found["chunk_count"])
    writer.add_uint32("imatrix.chunk_size", found["chunk_size"])
    for name, (values, counts) in sums.items():
        writer.add_tensor(f"{name}.in_sum2", values)
        writer.add_tensor(f"{name}.counts", np.array(counts, np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dat(entries: list[tuple[bytes, int, Any]], tail: bytes = b"") -> bytes:
    out = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        floats = np.asarray(values, "<f4")
        out += struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, floats.size) + floats.tobytes()
    return out + tail


TAIL = struct.pack("<ii", 9, 7) + b"wiki.tx"


def test_sums_are_divided_by_each_experts_count(tmp_path: Path) -> None:
    found = imatrix.read(write_gguf(tmp_path / "m.gguf"))
    assert np.array_equal(found.values["blk.0.ffn_up.weight"], np.arange(256, dtype=np.float32) / 16)
    experts = found.values["blk.0.ffn_down_exps.weight"].reshape(3, 256)
    sums = SUMS["blk.0.ffn_down_exps.weight"][0]
    assert np.array_equal(experts[0], sums[0] / np.float32(4)) and np.array_equal(
        experts[2], sums[2] / np.float32(3)
    )
    assert (experts[1] == 1).all()
    assert {e.key: e.value for e in found.entries()} == {
        "quantize.imatrix.file": "m.gguf", "quantize.imatrix.dataset": "calibration.txt",
        "quantize.imatrix.entries_count": 2, "quantize.imatrix.chunks_count": 7,
    }  # fmt: skip
    assert found.fit(SHAPES)["blk.0.ffn_down_exps.weight"].shape == (3, 256)


def test_the_older_format(tmp_path: Path) -> None:
    path = tmp_path / "m.dat"
    path.write_bytes(dat([(b"a.weight", 3, [3, 6, 1]), (b"b.weight", 0, [5])], TAIL))
    found = imatrix.read(path)
    assert found.values["a.weight"].tolist() == [1, 2, float(np.float32(1) / np.float32(3))]
    assert found.values["b.weight"].tolist() == [5]
    assert (found.chunks, found.dataset) == (9, "wiki.tx")
    path.write_bytes(dat([(b"a.weight", 3, [3])]))
    assert [e.key for e in imatrix.read(path).entries()] == [
        "quantize.imatrix.file", "quantize.imatrix.entries_count",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "inside a field of 4 bytes"),
        (struct.pack("<i", 0), "0 for entries"),
        (struct.pack("<i", 1 << 30), "for entries"),
        (dat([(b"a", 1, [1])])[:-1], "inside a field"),
        (struct.pack("<ii", 1, -5), "for a name's length"),
        (dat([(b"a", 1, [])]), "0 for values"),
        (dat([(b"\xff", 1, [1])]), "isn't UTF-8"),
        (dat([(b"a", 1, [1]), (b"a", 1, [1])]), "'a' twice"),
        (dat([(b"a", 1, [np.nan])]), "aren't finite"),
        (dat([(b"a", 1, [-1])]), "below zero"),
        (dat([(b"a", 1, [1])], TAIL + b"x"), "bytes after the end"),
    ],
)
def test_unsound_dat_files(tmp_path: Path, data: bytes, found: str) -> None:
    path = tmp_path / "m.dat"
    path.write_bytes(data)
    with pytest.raises(InputError, match=found) as caught:
        imatrix.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (lambda path: write_gguf(path, datasets=None), "imatrix.datasets"),
        (lambda path: write_gguf(path, {}), "no tensors"),
        (
            lambda path: write_gguf(path, {"a": (np.ones((2, 8), np.float32), [1.0] * 3)}),
            "3 counts for 16 sums",
        ),
        (lambda path: write_gguf(path, {"a": (np.ones(8, np.float32), [np.inf])}), "unsound ones"),
        (lambda path: write_gguf(path, {"a": (np.ones(8, np.float32), [0.0])}), "'a' was computed on 0 rows"),
        (lambda path: write_gguf(path, {"a": (np.ones(8, np.float32), [4.0, -1.0])}), "counts below zero"),
        (lambda path: write_gguf(path, {"a": (np.full(8, np.nan, np.float32), [1.0])}), "aren't finite"),
        (lambda path: write_gguf(path, {"a": (np.full(8, -1, np.float32), [1.0])}), "below zero"),
        (lambda path: write_gguf(path, {"a": (np.ones(8, np.float16), [1.0])}), "F16, expected F32"),
        (lambda path: write_gguf(path, {"a": (np.full(8, np.inf, np.float32), [1.0])}), "aren't finite"),
        (lambda path: path.write_bytes(write_gguf(path).read_bytes()[:-40]), "outside the file"),
    ],
)
def test_unsound_gguf_files(tmp_path: Path, write: Callable[[Path], Any], found: str) -> None:
    write(tmp_path / "m.gguf")
    with pytest.raises(InputError) as caught:
        imatrix.read(tmp_path / "m.gguf")
    assert found in str(caught.value)


def test_sums_without_counts(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes().replace(b"blk.0.ffn_up.weight.counts", b"blk.0.ffn_uq.weight.counts"))
    with pytest.raises(InputError, match="without its sums or its counts"):
        imatrix.read(path)


def matrix(values: Mapping[str, int]) -> imatrix.ImportanceMatrix:
    return imatrix.ImportanceMatrix(
        Path("m.gguf"), {name: np.ones(size, np.float32) for name, size in values.items()}, None, 0
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"blk.0.ffn_up.weight": 256, "blk.7.ffn_up.weight": 256}, "doesn't have.*\n.*blk.7.ffn_up.weight"),
        ({"blk.0.ffn_up.weight": 128}, r"sizes.*\n.*blk.0.ffn_up.weight \(128 values, expected 256\)"),
        ({"blk.0.ffn_down_exps.weight": 256}, "256 values, expected 768"),
        ({"blk.0.ffn_up.weight": 256}, r"lacks some tensors\n.*blk.0.ffn_down_exps.weight \(IQ2_XXS\)"),
    ],
)
def test_a_matrix_of_another_model_is_refused(values: dict[str, int], message: str) -> None:
    laid = layout(Model(1, 4, 4, 3), SHAPES)
    with pytest.raises(InputError, match=message):
        plan.plan(laid, presets.preset("IQ2_XXS"), matrix=matrix(values))


def test_a_matrix_of_another_size_for_the_embedding_is_ignored() -> None:
    laid = layout(Model(1, 4, 4, 3), SHAPES)
    values = {"token_embd.weight": 4, "blk.0.ffn_up.weight": 256, "blk.0.ffn_down_exps.weight": 768}
    placed = plan.plan(laid, presets.preset("IQ2_XXS"), matrix=matrix(values)).tensors
    assert {t.mapped.name for t in placed if t.weights is None} == {"token_embd.weight"}


def test_a_build_with_a_matrix_says_so(tmp_path: Path) -> None:
    from edgekit import project
    from edgekit.build import build

    sizes: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 1,
        "vocab_size": 300,
    }
    write_llama(tmp_path / "base", **sizes)
    modules = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    ones = np.ones(256, np.float32)
    write_gguf(tmp_path / "cal.gguf", {f"blk.0.{part}.weight": (ones, [1.0]) for part in modules})
    (tmp_path / "edgekit.toml").write_text(
        'name = "tiny"\nbase = "base"\nquantizations = ["IQ2_XXS"]\nimatrix = "cal.gguf"\n'
    )
    (built,) = build(project.read_project(tmp_path / "edgekit.toml"))
    calibration = Bundle.open(built.folder).manifest.provenance.calibration
    assert calibration is not None and (calibration.name, calibration.files[0].path) == ("cal", "cal.gguf")
    assert len(calibration.files[0].sha256) == 64
    assert str(tmp_path) not in (built.folder / "manifest.json").read_text()


WRITTEN = Path(__file__).parents[1] / "data" / "imatrix"
"""By llama-imatrix, of stories260k."""


def test_both_formats_of_llama_imatrix_itself_say_the_same() -> None:
    new, old = (imatrix.read(WRITTEN / f"stories260k.imatrix.{kind}") for kind in ("gguf", "dat"))
    assert new.values.keys() == old.values.keys() and len(new.values) == 5 * 7
    for name, values in new.values.items():
        np.testing.assert_allclose(values, old.values[name], rtol=1e-6)
    assert (new.dataset, new.chunks) == (old.dataset, old.chunks) == ("stories.txt", 16)


@pytest.mark.parametrize("kind", ["gguf", "dat"])
@pytest.mark.parametrize("preset", ["Q4_K_M", "IQ4_NL", "Q4_0"])
def test_with_llama_imatrixs_file_bytes_are_those_of_llama_cpp(
    tmp_path: Path, kind: str, preset: str
) -> None:
    matrix = imatrix.read(WRITTEN / f"stories260k.imatrix.{kind}")
    base = WRITTEN.parent / "stories260k"
    model = plan.lay_out(Checkpoint(base), base, "stories")
    for name in ("F32", preset):
        chosen = plan.plan(model, presets.preset(name), matrix=matrix if name == preset else None)
        stream.write([chosen], [tmp_path / f"{name}.gguf"], 1)
    theirs, file_type = tmp_path / "theirs.gguf", int(presets.PRESETS[preset].file_type)
    assert quantize(tmp_path / "F32.gguf", theirs, file_type, matrix=matrix.values) is not None
    assert_same_tensors(tmp_path / f"{preset}.gguf", theirs)
