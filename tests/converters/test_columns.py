"""Columns of a matrix read as rows: what its whole read, turned, gives."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from edgekit.converters import columns
from edgekit.converters.checkpoint import Checkpoint
from edgekit.errors import InputError
from tests.converters.test_checkpoint import one_tensor
from tests.models import llama_config, save, write_sidecars


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("panel", [1 << 20, 70_000, 1])
def test_reads_columns_as_rows(
    tmp_path: Path, dtype: Any, panel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one panel, in a few, in one for each column; more rows than a stripe, more columns than a block."""
    monkeypatch.setattr(columns, "PANEL_BYTES", panel)
    array = np.random.default_rng(0).standard_normal((401, 181)).astype(dtype)
    checkpoint = one_tensor(tmp_path, array)
    expected = array.astype(np.float32).T
    assert np.array_equal(checkpoint.read_columns("w.weight"), expected)
    ranges = [slice(i, i + 23) for i in range(0, 181, 23)]

    def read(part: slice) -> bool:
        out = np.empty(expected[part].shape, np.float32)
        return checkpoint.read_columns("w.weight", part, out) is out and np.array_equal(out, expected[part])

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(read, ranges * 3))
    with pytest.raises(ValueError, match="what is read has"):
        checkpoint.read_columns("w.weight", slice(0, 2), np.empty((3, 401), np.float32))


def test_columns_of_two_matrices_by_turns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((7, 5)).astype(np.float32) for name in "ab"}
    write_sidecars(tmp_path, llama_config())
    save(tmp_path / "model.safetensors", arrays)
    checkpoint = Checkpoint(tmp_path)
    for column in range(5):
        for name, array in arrays.items():
            found = checkpoint.read_columns(name, slice(column, column + 1))
            assert np.array_equal(found, array[:, column : column + 1].T)


def test_a_file_that_shrank_gives_no_columns_then_or_later(tmp_path: Path) -> None:
    checkpoint = one_tensor(tmp_path, np.ones((64, 64), np.float32))
    checkpoint.read_columns("w.weight", slice(0, 1))
    checkpoint.close()
    checkpoint = one_tensor(tmp_path, np.ones((64, 64), np.float32))
    os.truncate(tmp_path / "model.safetensors", 4096)
    for _ in range(2):
        with pytest.raises(InputError, match="became shorter"):
            checkpoint.read_columns("w.weight", slice(0, 1))
