"""What memory depends on, by transformers' own reading of each config; a build of a config with other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.build import build
from edgekit.converters.gguf import families, plan, presets
from edgekit.converters.text_model import open_model
from edgekit.errors import EdgekitError
from edgekit.plan import artifact
from edgekit.project import BuildSpec
from tests.converters.cases import CASES
from tests.converters.oracles import make
from tests.models import llama_config


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    config = make(CASES[name], tmp_path).config.get_text_config()
    layout = plan.lay_out(open_model(tmp_path), tmp_path, "test")
    found = artifact(plan.plan(layout, presets.preset("F32"), [], None, None)).shape
    assert (found.layers, found.width) == (config.num_hidden_layers, config.hidden_size)
    assert found.n_vocab == config.vocab_size
    if "gemma4" in config.model_type:
        return  # its heads differ by layer: test_gemma4
    heads = config.num_attention_heads
    shared = heads if name == "gpt-2" else config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * found.layers
    expected = [0 if kind in {"linear_attention", "conv"} else 2 * shared * size for kind in kinds]
    assert list(found.kv_widths) == expected


def test_a_config_with_names_of_its_own_is_built(tmp_path: Path) -> None:
    make(CASES["gpt-2"], tmp_path / "base")
    (built,) = build(BuildSpec(tmp_path / "base", tmp_path / "out", "tiny", quantizations=("Q8_0",)))
    longest, keys_and_values = 256, 2 * 2 * 2 * 64 * 256
    memory = built.manifest.requirements.memory
    assert list(memory) == [str(longest)] and memory["256"] > keys_and_values + built.size


@pytest.mark.parametrize(
    "architecture", [name for family in families.FAMILIES for name in family.ARCHITECTURES]
)
@pytest.mark.parametrize("wrong", [[], ["gelu"], {"a": 1}, 1 << 30, True, float("nan"), "x", None])
def test_wrong_values_are_refused_before_they_cost_anything(architecture: str, wrong: Any) -> None:
    """Not even the list of layers of a config that claims a billion may be made."""
    usual = {**llama_config(), "architectures": [architecture], "n_embd": 64, "n_head": 4, "n_layer": 2}
    for key in (
        *usual,
        "layer_types",
        "rope_parameters",
        "original_max_position_embeddings",
        "hidden_activation",
    ):
        if key == "architectures":
            continue
        config = json.loads(json.dumps({**usual, key: wrong}))
        try:
            families.find(config, Path("config.json")).metadata(config)
        except EdgekitError as error:
            assert str(error)
