"""A file's size is known to the byte before anything is written: every preset of every family, whatever is there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.foreseen import lacks_weights
from edgekit.converters.gguf import plan, presets, stream
from edgekit.converters.gguf.imatrix import ImportanceMatrix
from edgekit.converters.gguf.plan import Layout, Plan
from edgekit.converters.lora import Merged
from edgekit.converters.text_model import foresee, open_model
from edgekit.errors import InputError
from tests.converters.cases import CASES
from tests.converters.oracles import make
from tests.converters.quantizer import random_matrix
from tests.models import write_llama

AS_THE_CONFIG_SAYS = [name for name in CASES if name not in {"gemma-4-e2b", "gemma-4-e4b-it"}]
"""Published checkpoints of the others hold keys and values that nothing reads, and these hold none: no config tells."""


def every(layout: Layout) -> Iterator[Plan]:
    """A plan for each preset that rows of this length have; with an importance matrix where one is needed."""
    shapes = {tensor.name: tensor.shape for tensor in layout.tensors}
    matrix = ImportanceMatrix(Path("m"), random_matrix(shapes), "made", 1)
    for preset in presets.PRESETS.values():
        try:
            one = plan.plan(layout, preset, unchecked=True)
        except InputError as error:
            assert "don't divide" in error.what
            continue
        yield plan.plan(layout, preset, matrix=matrix) if one.lacking else one


def without_weights(folder: Path, *, index: bool = True) -> Path:
    """As of a checkpoint whose shards weren't fetched."""
    checkpoint = Checkpoint(folder)
    names = dict.fromkeys(checkpoint.names(), "model-00001-of-00001.safetensors")
    checkpoint.close()
    (folder / "model.safetensors").unlink()
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert lacks_weights(folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_every_preset_has_the_size_that_was_planned(name: str, tmp_path: Path) -> None:
    make(CASES[name], tmp_path / "base")
    plans = list(every(plan.lay_out(open_model(tmp_path / "base"), tmp_path / "base", "test")))
    assert len(plans) > 20
    paths = [tmp_path / f"{one.preset.name}.gguf" for one in plans]
    stream.write(plans, paths, 2)
    assert [path.stat().st_size for path in paths] == [one.file_bytes for one in plans]


@pytest.mark.parametrize("name", CASES)
def test_config_and_index_give_the_same_plan_as_the_weights(name: str, tmp_path: Path) -> None:
    make(CASES[name], tmp_path)
    read = list(every(plan.lay_out(open_model(tmp_path), tmp_path, "test")))
    source = foresee(without_weights(tmp_path))
    for layout in (
        plan.lay_out(source, tmp_path, "test"),
        plan.lay_out(Merged(source, []), tmp_path, "test"),
    ):
        unread = list(every(layout))
        assert [one.file_bytes for one in unread] == [one.file_bytes for one in read]
        assert [[t.kind for t in one.tensors] for one in unread] == [
            [t.kind for t in one.tensors] for one in read
        ]


@pytest.mark.parametrize("name", AS_THE_CONFIG_SAYS)
def test_a_config_alone_gives_the_size_too(name: str, tmp_path: Path) -> None:
    make(CASES[name], tmp_path)
    read = list(every(plan.lay_out(open_model(tmp_path), tmp_path, "test")))
    layout = plan.lay_out(foresee(without_weights(tmp_path, index=False)), tmp_path, "test")
    assert [one.file_bytes for one in every(layout)] == [one.file_bytes for one in read]


def test_an_index_of_another_model_is_refused(tmp_path: Path) -> None:
    without_weights(write_llama(tmp_path))
    index = tmp_path / "model.safetensors.index.json"
    names = json.loads(index.read_text())
    del names["weight_map"]["model.layers.1.mlp.up_proj.weight"]
    index.write_text(json.dumps(names))
    with pytest.raises(InputError, match="model.layers.1.mlp.up_proj.weight"):
        plan.lay_out(foresee(tmp_path), tmp_path, "test")


def test_split_files_have_the_sizes_that_were_planned(tmp_path: Path) -> None:
    layout = plan.lay_out(open_model(write_llama(tmp_path / "base")), tmp_path / "base", "test")
    one = plan.plan(layout, presets.preset("Q8_0"), split_size=20_000)
    assert len(one.shards) > 2
    stream.write([one], [tmp_path / "m.gguf"], 1)
    assert sum(path.stat().st_size for path in one.paths(tmp_path / "m.gguf")) == one.file_bytes


@pytest.mark.skipif("EDGEKIT_TEST_DATA" not in os.environ, reason="EDGEKIT_TEST_DATA names no folder")
@pytest.mark.parametrize("model", ["tiny-extract", "stories260k"])
def test_real_checkpoints_have_the_sizes_that_were_planned(model: str, tmp_path: Path) -> None:
    folder = Path(os.environ["EDGEKIT_TEST_DATA"]) / "models" / model
    plans = list(every(plan.lay_out(open_model(folder), folder, "test")))
    paths = [tmp_path / f"{one.preset.name}.gguf" for one in plans]
    stream.write(plans, paths, 2)
    assert [path.stat().st_size for path in paths] == [one.file_bytes for one in plans]
