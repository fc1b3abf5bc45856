"""Importance matrices that are written here: read back, the same bytes again, and taken by llama.cpp's quantizer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.gguf import imatrix, plan, presets, stream
from edgekit.errors import InputError
from edgekit.runtimes.activations import collect
from tests.converters.quantizer import assert_same_tensors, quantize
from tests.converters.test_experts import QWEN3, weights
from tests.models import save, write_llama, write_sidecars

TOKENS = imatrix.Tokens(1024, "ab" * 32)
WRITTEN = Path(__file__).parents[1] / "data" / "imatrix" / "stories260k.imatrix.gguf"


def sums(rows: int = 4) -> dict[str, tuple[Any, Any]]:
    numbers = np.random.default_rng(3).random
    return {
        "blk.1.ffn_up.weight": (numbers((1, 8)) * rows, np.array([rows])),
        "blk.0.ffn_up_exps.weight": (numbers((3, 8)), np.array([4, 0, 1])),
    }


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    imatrix.write(path, sums(), "train.jsonl", (2, 512), TOKENS)
    found = imatrix.read(path)
    assert (found.dataset, found.chunks, found.tokens) == ("train.jsonl", 2, TOKENS)
    for name, (squares, counts) in sums().items():
        means = squares.astype(np.float32) / np.maximum(counts, 1)[:, None].astype(np.float32)
        means[counts == 0] = 1
        assert np.array_equal(found.values[name], means.astype(np.float32).reshape(-1))
    again = tmp_path / "again.gguf"
    imatrix.write(again, dict(reversed(sums().items())), "train.jsonl", (2, 512), TOKENS)
    assert again.read_bytes() == path.read_bytes()


def test_the_file_is_laid_out_as_llama_imatrixs(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    imatrix.write(path, sums(), "stories.txt", (2, 512), TOKENS)
    ours, theirs = gguf.GGUFReader(path), gguf.GGUFReader(WRITTEN)
    kinds = {name: one.types for name, one in ours.fields.items() if not name.startswith("edgekit.")}
    assert kinds == {name: one.types for name, one in theirs.fields.items()}
    assert ours.fields["general.type"].contents() == theirs.fields["general.type"].contents() == "imatrix"
    assert [(t.name, t.shape.tolist()) for t in ours.tensors] == [
        ("blk.0.ffn_up_exps.weight.in_sum2", [8, 3]), ("blk.0.ffn_up_exps.weight.counts", [1, 3]),
        ("blk.1.ffn_up.weight.in_sum2", [8, 1]), ("blk.1.ffn_up.weight.counts", [1, 1]),
    ]  # fmt: skip
    assert {t.name.rsplit(".", 1)[1] for t in theirs.tensors} == {"in_sum2", "counts"}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda data: data.replace(b"ab" * 32, b"xy" * 32), "tokens_sha256"),
        (lambda data: data.replace(b"calibration.tokens\x0a", b"calibration.tokenz\x0a"), "of another type"),
        (lambda data: data[:-40], "outside the file"),
        (lambda data: data[:100], "ends too soon"),
        (lambda data: data.replace(b".counts", b".countz"), "without its sums or its counts"),
        (lambda data: data.replace(b"imatrix.chunk_count", b"imatrix.chunk_counz"), "not of llama-imatrix"),
    ],
)
def test_a_damaged_file(tmp_path: Path, change: Any, found: str) -> None:
    path = tmp_path / "m.gguf"
    imatrix.write(path, sums(), "train.jsonl", (2, 512), TOKENS)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=re.escape(found)) as caught:
        imatrix.read(path)
    assert str(path) in str(caught.value)


@pytest.fixture(scope="module", params=["llama", "experts"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose rows are long enough for K-quants, and its F32 GGUF."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "llama":
        write_llama(folder / "base", hidden_size=256, intermediate_size=512)
    else:
        config = QWEN3 | {"hidden_size": 256, "moe_intermediate_size": 256, "num_experts": 6}
        write_sidecars(folder / "base", config)
        save(folder / "base" / "model.safetensors", weights(config))
    _write(folder, "F32", None, folder / "F32.gguf")
    return folder


def _write(folder: Path, preset: str, matrix: imatrix.ImportanceMatrix | None, target: Path) -> None:
    base = Checkpoint(folder / "base")
    laid = plan.lay_out(base, folder / "base", "tiny")
    stream.write([plan.plan(laid, presets.preset(preset), matrix=matrix)], [target], 2)
    base.close()


def test_bytes_are_llama_cpps_with_the_same_matrix(model: Path, tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(5, 370, (4, 60)).tolist()
    found = {name: (one.squares, one.counts) for name, one in collect(model / "F32.gguf", tokens).items()}
    imatrix.write(tmp_path / "m.gguf", found, "random", (1, 240), TOKENS)
    matrix = imatrix.read(tmp_path / "m.gguf")
    if "blk.0.ffn_up_exps.weight" in found:
        assert len({tuple(row) for row in matrix.values["blk.0.ffn_up_exps.weight"].reshape(6, 256)}) == 6
    for preset in ("Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_NL", "IQ2_XXS"):
        ours, theirs, without = (tmp_path / f"{side}.gguf" for side in ("ours", "theirs", "without"))
        _write(model, preset, matrix, ours)
        file_type = int(presets.PRESETS[preset].file_type)
        assert quantize(model / "F32.gguf", theirs, file_type, matrix=matrix.values) is not None
        assert_same_tensors(ours, theirs)
        if preset != "IQ2_XXS":  # which can't do without
            _write(model, preset, None, without)
            assert ours.read_bytes()[-10000:] != without.read_bytes()[-10000:]
