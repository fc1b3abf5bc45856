"""Error feedback: against GPTQ written down plainly, and against what it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Q
from numpy.typing import NDArray

from edgekit.converters.gguf import ggml
from edgekit.converters.gguf.blocks import BLOCKS, Blocks
from edgekit.converters.gguf.feedback import DAMPING, Factors, factor, quantize
from edgekit.correlated import Correlations, Sums
from edgekit.errors import InputError
from edgekit.tensors import Float32

KINDS = [pytest.param(one, id=one.kind.name) for one in BLOCKS.values()]


def inputs(columns: int, rows: int = 2000, seed: int = 0) -> Float32:
    """Correlated columns of unlike sizes."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, columns // 4)) @ rng.normal(size=(columns // 4, columns))
    noisy = (mixed + rng.normal(size=(rows, columns))) * np.exp(rng.normal(size=columns) * 0.5)
    found: Float32 = noisy.astype(np.float32)
    return found


def correlated(given: Float32) -> Float32:
    """Mean products of columns."""
    found: Float32 = (given.T @ given / len(given)).astype(np.float32)
    return found


def weights(rows: int, columns: int) -> Float32:
    return np.random.default_rng(1).normal(size=(rows, columns)).astype(np.float32)


def widened(kind: Q, packed: NDArray[np.uint8], like: Float32) -> Float32:
    out = np.empty_like(like)
    ggml.load().widen(kind, packed, out)
    return out


def plainly(blocks: Blocks, rows: Float32, correlations: Float32, strength: float) -> Float32:
    """GPTQ in float64, an error told at once to every column behind; ggml's scales for each block."""
    columns = rows.shape[1]
    damped = correlations.astype(float) + np.eye(columns) * DAMPING * np.diag(correlations).mean()
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, out = rows.astype(float), np.empty(rows.shape)
    levels = np.array(blocks.levels, float)
    for at in range(0, columns, blocks.columns):
        part = slice(at, at + blocks.columns)
        raw = np.empty((len(rows), blocks.nbytes), np.uint8)
        squares = np.ascontiguousarray(np.diag(correlations)[part])
        ggml.load().quantize(blocks.kind, np.ascontiguousarray(left[:, part], np.float32), raw, squares)
        scale, offset = blocks.grid(raw, ggml.load())
        for column in range(at, at + blocks.columns):
            choices = offset[:, column - at, None] + scale[:, column - at, None] * levels
            nearest = np.abs(choices - left[:, column, None]).argmin(1)
            out[:, column] = choices[np.arange(len(rows)), nearest]
            error = strength * (left[:, column] - out[:, column]) / upper[column, column]
            left[:, column + 1 :] -= np.outer(error, upper[column, column + 1 :])
    return out.astype(np.float32)


@pytest.mark.parametrize("blocks", KINDS)
@pytest.mark.parametrize("strength", [1.0, 0.75])
def test_is_gptq(blocks: Blocks, strength: float) -> None:
    columns = 512 if blocks.columns == 256 else 288  # beyond a panel
    given = inputs(columns)
    rows, correlations = weights(24, columns), correlated(given)
    found = quantize(ggml.load(), blocks, rows, factor(correlations), strength)
    ours, theirs = widened(blocks.kind, found, rows), plainly(blocks, rows, correlations, strength)
    # A tie that float32 rounds the other way changes what comes behind it, in that row alone.
    same = np.isclose(ours, theirs, rtol=1e-3, atol=1e-4).mean(1)
    assert np.median(same) > 0.99
    outputs = [np.linalg.norm(given @ (one - rows).T) for one in (ours, theirs)]
    assert outputs[0] == pytest.approx(outputs[1], rel=0.05)


@pytest.mark.parametrize("blocks", KINDS)
def test_outputs_are_nearer_than_ggml_gets_them(blocks: Blocks) -> None:
    given, rows = inputs(256), weights(32, 256)
    correlations = correlated(given)
    nearest = np.empty(rows.size // blocks.columns * blocks.nbytes, np.uint8)
    ggml.load().quantize(blocks.kind, rows, nearest, np.ascontiguousarray(np.diag(correlations)))
    fresh = inputs(256, seed=0)[1000:]

    def lost(packed: NDArray[np.uint8]) -> float:
        return float(np.linalg.norm(fresh @ (widened(blocks.kind, packed, rows) - rows).T))

    assert lost(quantize(ggml.load(), blocks, rows, factor(correlations))) < 0.7 * lost(nearest)


def test_rows_are_rounded_by_themselves() -> None:
    """So a pass may cut a tensor where it likes."""
    blocks, given = BLOCKS[Q.Q4_K], inputs(256)
    by, rows = factor(correlated(given)), weights(40, 256)
    whole = quantize(ggml.load(), blocks, rows, by)
    parts = [quantize(ggml.load(), blocks, rows[at : at + 8], by) for at in range(0, 40, 8)]
    values = [widened(Q.Q4_K, one, rows) for one in (whole, np.concatenate(parts))]
    assert np.isclose(values[0], values[1], rtol=1e-3, atol=1e-3).mean() > 0.99


def test_columns_that_were_always_zero_and_too_few_rows_are_no_trouble() -> None:
    given, rows = inputs(256, rows=20), weights(8, 256)
    given[:, 5] = 0
    packed = quantize(ggml.load(), BLOCKS[Q.Q4_K], rows, factor(correlated(given)))
    found = widened(Q.Q4_K, packed, rows)
    assert np.isfinite(found).all()
    assert np.abs(found - rows).max() < 3
    nothing = quantize(ggml.load(), BLOCKS[Q.Q4_K], rows, factor(np.zeros((256, 256), np.float32)))
    assert np.abs(widened(Q.Q4_K, nothing, rows) - rows).max() < 1


def test_correlations_come_back_as_they_were_summed(tmp_path: Path) -> None:
    first, second = inputs(64, 30), inputs(32, 50)
    sums = Sums(tmp_path)
    one = sums.begin("blk.0.attn_q.weight", 64)
    sums.join("blk.0.attn_k.weight", one)
    two = sums.begin("blk.0.ffn_down.weight", 32)
    sums.add(one, first[:10])
    sums.add(two, second)
    sums.add(one, first[10:])
    sums.close()
    found = Correlations.open(tmp_path)
    assert found.input_of("blk.0.attn_q.weight") == found.input_of("blk.0.attn_k.weight") == one
    assert np.allclose(found.of(one), first.T @ first / 30, rtol=1e-5, atol=1e-5)
    assert np.allclose(found.of(two), second.T @ second / 50, rtol=1e-5, atol=1e-5)
    assert found.has("blk.0.attn_k.weight", 64)
    assert not found.has("blk.0.attn_k.weight", 32)
    assert not found.has("output.weight", 64)
    factors = Factors(found)
    assert factors.fits("blk.0.ffn_down.weight", (8, 32), Q.Q4_0)
    assert not factors.fits("blk.0.ffn_down.weight", (2, 8, 32), Q.Q4_0)  # experts
    assert not factors.fits("blk.0.ffn_down.weight", (8, 32), Q.Q8_0)
    with (tmp_path / "correlations.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(InputError, match="cut off"):
        Correlations.open(tmp_path)
