"""Codes inside quantized blocks: every type, against ggml and against gguf-py's own reading of the bytes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Q
from numpy.typing import NDArray

from edgekit.converters.gguf import ggml
from edgekit.converters.gguf.blocks import BLOCKS, Blocks

KINDS = [pytest.param(one, id=one.kind.name) for one in BLOCKS.values()]


def packed(blocks: Blocks, count: int = 6) -> NDArray[np.uint8]:
    """Random weights in a type, some of them zero throughout."""
    rows = np.random.default_rng(3).normal(size=(count, blocks.columns)).astype(np.float32)
    rows[1] = 0
    out = np.empty((count, blocks.nbytes), np.uint8)
    ggml.load().quantize(blocks.kind, rows, out)
    return out


@pytest.mark.parametrize("blocks", KINDS)
def test_scale_offset_and_code_say_what_ggml_reads(blocks: Blocks) -> None:
    raw = packed(blocks)
    scale, offset = blocks.grid(raw, ggml.load())
    values = offset + scale * np.array(blocks.levels, np.float32)[blocks.codes(raw)]
    assert np.allclose(values, blocks.values(raw, ggml.load()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("blocks", KINDS)
def test_any_codes_can_be_put_and_gguf_py_reads_them(blocks: Blocks) -> None:
    raw = packed(blocks)
    scale, offset = blocks.grid(raw, ggml.load())
    wanted = np.random.default_rng(4).integers(0, len(blocks.levels), (len(raw), blocks.columns))
    blocks.put(raw, wanted.astype(np.uint8))
    assert (blocks.codes(raw) == wanted).all()
    theirs = gguf.dequantize(raw, blocks.kind)
    assert np.allclose(theirs, offset + scale * np.array(blocks.levels)[wanted], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("blocks", KINDS)
def test_putting_the_same_codes_changes_no_byte(blocks: Blocks) -> None:
    raw = packed(blocks)
    again = raw.copy()
    blocks.put(again, blocks.codes(raw))
    assert (again == raw).all()


def test_types_that_search_a_grid_are_left_out() -> None:
    assert not {Q.IQ3_S, Q.IQ3_XXS, Q.IQ2_S, Q.IQ1_S} & set(BLOCKS)
    assert [one.even for one in BLOCKS.values()].count(False) == 2
