"""Weights that aren't finite, where they are allowed; and values that would abort a quantizer, and with it the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgekit import golden
from edgekit.build import build
from edgekit.bundle import Bundle
from edgekit.converters.gguf import plan, presets, stream
from edgekit.converters.gguf.presets import Model
from edgekit.errors import InputError
from edgekit.project import BuildSpec
from tests.converters.quantizer import Arrays, layout
from tests.converters.test_presets import DENSE, held, layers
from tests.models import llama_config, llama_weights, save, write_sidecars

NAME = "blk.0.ffn_up.weight"


def spoiled(value: float) -> plan.Layout:
    laid = layout(Model(1, 4, 4), layers(1, *DENSE))
    assert isinstance(laid.source, Arrays)
    laid.source.arrays[NAME][1, 7] = value
    return laid


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("preset", ["F32", "BF16", "F16"])
def test_types_that_hold_them_keep_them(tmp_path: Path, preset: str, value: float) -> None:
    one = plan.plan(spoiled(value), presets.preset(preset))
    with pytest.raises(InputError, match=f"{NAME}.*no file takes"):
        stream.write([one], [tmp_path / "a.gguf"], 1)
    stream.write([one], [tmp_path / "a.gguf"], 1, allow_nonfinite=True)
    tensor = next(t for t in gguf.GGUFReader(tmp_path / "a.gguf").tensors if t.name == NAME)
    rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    assert np.array_equal(rows[1, 7], np.float32(value), equal_nan=True)
    assert np.isfinite(rows).sum() == rows.size - 1


def test_numbers_too_large_for_a_type_are_refused_all_the_same(tmp_path: Path) -> None:
    one = plan.plan(spoiled(1e6), presets.preset("F16"))
    with pytest.raises(InputError, match="try BF16"):
        stream.write([one], [tmp_path / "a.gguf"], 1, allow_nonfinite=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e20])
@pytest.mark.parametrize("kind", sorted(kind.name for kind in stream.GRIDS))
def test_a_quantizer_that_would_abort_is_not_called(tmp_path: Path, kind: str, value: float) -> None:
    values = {name: np.ones(256, np.float32) for name in layers(1, *DENSE) if "blk" in name}
    override = presets.Override.parse(f"ffn_up={kind.lower()}")
    one = plan.plan(spoiled(value), presets.preset("Q8_0"), [override], held(values))
    with pytest.raises(InputError, match=f"{NAME}.*{kind} never takes"):
        stream.write([one], [tmp_path / "a.gguf"], 1, allow_nonfinite=True)


def test_importance_that_would_overflow_is_not_used(tmp_path: Path) -> None:
    values = {name: np.full(256, 1e30, np.float32) for name in layers(1, *DENSE) if "blk" in name}
    one = plan.plan(spoiled(1.0), presets.preset("IQ3_S"), matrix=held(values))
    with pytest.raises(InputError, match="IQ3_S never takes"):
        stream.write([one], [tmp_path / "a.gguf"], 1)


@pytest.mark.parametrize("preset", ["F32", "Q8_0"])
def test_a_build_with_a_row_of_nans_that_no_probe_meets(tmp_path: Path, preset: str) -> None:
    config = llama_config()
    write_sidecars(tmp_path / "base", config)
    weights: dict[str, Any] = llama_weights(config)
    weights["lm_head.weight"][378] = np.nan
    save(tmp_path / "base" / "model.safetensors", weights)
    spec = BuildSpec(tmp_path / "base", tmp_path / "out", "tiny", quantizations=(preset,))
    with pytest.raises(InputError, match="lm_head"):
        build(spec)
    (built,) = build(BuildSpec(**{**vars(spec), "allow_nonfinite": True}))
    tops = [token for probe in golden.read(Bundle.open(built.folder)).logits for token, _ in probe.top]
    assert tops and 378 not in tops
