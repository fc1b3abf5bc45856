"""Multimodal checkpoints: their text model by itself, and the adapters that were trained on the whole."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edgekit.converters.adapter import Adapter
from edgekit.converters.gguf import plan
from edgekit.converters.lora import Merged
from edgekit.converters.text_model import open_model
from edgekit.describe import describe_adapter, describe_checkpoint
from edgekit.errors import AdapterError, EdgekitError, InputError, UnsupportedModelError
from edgekit.opening import opened
from edgekit.plan import artifact
from edgekit.progress import Progress
from edgekit.project import BuildSpec
from tests.converters.cases import CASES
from tests.converters.oracles import add_lora, make

Weights = dict[str, NDArray[np.float32]]
CASE = CASES["gemma-3-4b-it"]
OLD, NEW = "language_model.model.", "model.language_model."
SEEN = "model.vision_tower.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny multimodal model and a LoRA on its text model."""
    folder = tmp_path_factory.mktemp("made")
    model = make(CASE, folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT's
        add_lora(CASE, model, folder / "lora")
    return folder


def copied(folder: Path, to: Path, file: str, change: Callable[[Weights], Weights]) -> Path:
    """A copy of a folder with changed tensors."""
    shutil.copytree(folder, to)
    save_file(change(load_file(to / file)), to / file)
    return to


def configured(base: Path, to: Path, **changes: Any) -> Path:
    """A copy of a checkpoint with another config.json."""
    shutil.copytree(base, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, **changes}))
    return to


def merged_weights(base: Path, adapter: Path) -> Weights:
    with closing(open_model(base)) as model, closing(Adapter(adapter)) as opened_adapter:
        merged = Merged(model, [(opened_adapter, 1.0)])
        return {name: merged.read(name) for name in merged.names()}


def renamed(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name.replace(old, new): value for name, value in weights.items()}


def test_the_text_model_alone_is_seen_and_what_is_left_out_is_said(made: Path, tmp_path: Path) -> None:
    spec = BuildSpec(made / "base", tmp_path, "test", quantizations=("F32",))
    with opened(spec, Progress()) as inputs:
        assert inputs.layout.arch == "gemma3"
        assert all(
            name.startswith(("model.layers.", "model.embed", "model.norm")) for name in inputs.base.names()
        )
        (note,) = inputs.notes
        assert "only its text model" in note
        assert "vision_tower" in note and "multi_modal_projector" in note
        assert artifact(inputs.plans[0]).shape.trained == 256
    found = describe_checkpoint(made / "base")
    assert found["architectures"] == ["Gemma3ForConditionalGeneration"] and found["converts"]


def test_a_silent_config_means_transformers_defaults(made: Path, tmp_path: Path) -> None:
    """The published Gemma 3 4B says this little of its text model."""
    said = {"hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024}
    base = configured(made / "base", tmp_path / "base", text_config=said, eos_token_id=[1, 106])
    transformers = pytest.importorskip("transformers")
    expected = transformers.Gemma3TextConfig(**said).to_dict()
    with closing(open_model(base)) as model:
        assert model.config["eos_token_id"] == [1, 106]
        assert {
            key: expected[key]
            for key in model.config
            if key not in {"architectures", "eos_token_id", "dtype"}
        } == {
            key: value
            for key, value in model.config.items()
            if key not in {"architectures", "eos_token_id", "dtype"}
        }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text_config": None}, "text_config"),
        ({"text_config": [1]}, "text_config"),
        ({"text_config": {"final_logit_softcapping": 3.0}}, "final_logit_softcapping"),
        ({"text_config": {"hidden_size": "x"}}, "hidden_size"),
    ],
)
def test_a_config_of_no_text_model_is_refused(
    changes: dict[str, Any], reason: str, made: Path, tmp_path: Path
) -> None:
    base = configured(made / "base", tmp_path / "base", **changes)
    with (
        pytest.raises(EdgekitError, match=reason),
        opened(BuildSpec(base, tmp_path, "test"), Progress()),
    ):
        pass


def test_tensors_of_unknown_parts_and_double_ones_are_refused(made: Path, tmp_path: Path) -> None:
    extra = np.zeros(4, np.float32)
    heard = copied(
        made / "base", tmp_path / "a", "model.safetensors", lambda w: {**w, "audio_tower.x.weight": extra}
    )
    with closing(open_model(heard)) as model, pytest.raises(UnsupportedModelError, match="audio_tower"):
        plan.lay_out(model, heard, "test")
    double = copied(
        made / "base", tmp_path / "b", "model.safetensors", lambda w: {**w, f"{NEW}norm.weight": extra}
    )
    with pytest.raises(InputError, match="two tensors"):
        open_model(double)


def test_layers_that_guess_further_tokens_are_left_out(made: Path, tmp_path: Path) -> None:
    base = copied(
        made / "base",
        tmp_path / "b",
        "model.safetensors",
        lambda w: {**w, "mtp.fc.weight": np.zeros(2, np.float32)},
    )
    with closing(open_model(base)) as model:
        assert "mtp.fc.weight" not in model.names()


@pytest.mark.parametrize("called", [OLD, "model."])
def test_adapters_by_other_names_of_the_text_model_merge_the_same(
    called: str, made: Path, tmp_path: Path
) -> None:
    lora = copied(made / "lora", tmp_path / "lora", "adapter_model.safetensors", renamed(NEW, called))
    config = json.loads((lora / "adapter_config.json").read_text())
    config["target_modules"] = config["target_modules"].replace(r"model\.language_model\.", "")
    config["target_modules"] = ".*" + config["target_modules"]
    (lora / "adapter_config.json").write_text(json.dumps(config))
    expected = merged_weights(made / "base", made / "lora")
    found = merged_weights(made / "base", lora)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    with closing(open_model(made / "base")) as model:
        assert not np.array_equal(expected[q_proj(0)], model.read(q_proj(0)))


def q_proj(layer: int) -> str:
    return f"model.layers.{layer}.self_attn.q_proj.weight"


def test_an_adapter_that_lacks_a_targeted_text_layer_is_refused(made: Path, tmp_path: Path) -> None:
    lora = copied(
        made / "lora",
        tmp_path / "lora",
        "adapter_model.safetensors",
        lambda weights: {name: w for name, w in weights.items() if "layers.3.mlp.down_proj" not in name},
    )
    with pytest.raises(AdapterError, match=r"layers\.3\.mlp\.down_proj: is targeted"):
        merged_weights(made / "base", lora)


@pytest.mark.parametrize("trained", [True, False])
def test_factors_beside_the_text_model_are_refused_if_they_were_trained(
    trained: bool, made: Path, tmp_path: Path
) -> None:
    def seeing(weights: Weights) -> Weights:
        a, b = np.ones((4, 16), np.float32), np.full((16, 4), float(trained), np.float32)
        name = f"base_model.model.{SEEN}"
        return {**weights, f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}

    lora = copied(made / "lora", tmp_path / "lora", "adapter_model.safetensors", seeing)
    config = json.loads((lora / "adapter_config.json").read_text())
    config["target_modules"] += f"|{SEEN}"
    (lora / "adapter_config.json").write_text(json.dumps(config))
    found = describe_adapter(lora, made / "base")
    assert found["fits"] is not trained
    if trained:
        with pytest.raises(AdapterError, match="beside the text model, which alone is converted"):
            merged_weights(made / "base", lora)
        return
    with closing(open_model(made / "base")) as model, closing(Adapter(lora)) as adapter:
        assert any("all zero" in note for note in Merged(model, [(adapter, 1.0)]).notes)
