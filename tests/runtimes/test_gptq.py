"""GPTQ and AWQ behind the seam: transformers loads the folder as it is, and computes the same alone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

import edgekit
from edgekit import golden, here
from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError, RuntimeUnavailableError
from edgekit.runtimes.engine import Run
from edgekit.runtimes.gptq import GptqEngine
from edgekit.runtimes.rows import RowsOptions
from tests.conftest import BASE

TEXT = "Extract restaurant: people, date, time\nA table for two, tomorrow at seven. Ünïcode 😀 and <|eot_id|>"
FORMS = ("gptq", "awq")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # transformers' own
def test_transformers_loads_it_and_computes_the_same(packed_bundles: Path, form: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = packed_bundles / f"restaurant-{form}-int4" / form
    engine = GptqEngine(folder, RowsOptions(n_ctx=256, threads=1))
    tokens = engine.tokenize(TEXT, special=False)
    assert (
        AutoTokenizer.from_pretrained(folder)("A table")["input_ids"][-2:]
        == engine.tokenize("A table", special=False)[-2:]
    )
    ours = engine.decode([Run(0, tokens, tuple(range(len(tokens))))]).copy()
    engine.close()
    theirs = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor([tokens])).logits[0].numpy()
    assert np.abs(ours - expected).max() <= 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_answers_stay_near_the_exact_model(packed_bundles: Path, bundles: Path, form: str) -> None:
    """A bound that a wrong scale, offset or group breaks: unrelated models differ by several nats."""
    from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

    exact = LlamaCppEngine(
        bundles / "restaurant-f32" / "model.gguf", LlamaCppOptions(n_ctx=256, n_outputs=128)
    )
    near = GptqEngine(packed_bundles / f"restaurant-{form}-int4" / form, RowsOptions(n_ctx=256, threads=1))
    tokens = exact.tokenize(TEXT, special=False)
    rows = []
    for engine in (exact, near):
        logits = engine.decode([Run(0, tokens, tuple(range(len(tokens))))]).astype(np.float64)
        rows.append(
            logits
            - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - logits.max(-1, keepdims=True)
        )
        engine.close()
    assert 0 < (np.exp(rows[0]) * (rows[0] - rows[1])).sum(-1).mean() < 0.3


def test_a_bundle_loads_with_a_warning_that_names_what_is_better(packed_bundles: Path) -> None:
    bundle = Bundle.open(packed_bundles / "restaurant-gptq-int4")
    assert bundle.problems() == []
    assert bundle.manifest.provenance.calibration is not None
    assert bundle.manifest.provenance.calibration.tokens
    card = (bundle.folder / "README.md").read_text()
    assert (
        "Calibrated on" in card and "importance matrix" not in card and "library_name: transformers" in card
    )
    assert {"gptqmodel", "torch"} <= bundle.manifest.provenance.tools.keys()
    with (
        pytest.warns(RuntimeWarning, match="a GGUF of the same model is the better artifact"),
        edgekit.load(bundle.folder, n_ctx=512, verify=True) as model,
    ):
        found = model.extract("A table for two at seven, please.")
    assert set(found.data) == set(bundle.manifest.output_schema["properties"])  # type: ignore[index]
    engine = GptqEngine(bundle.artifact, RowsOptions(n_ctx=512))
    assert golden.replay(engine, golden.read(bundle)).differences == []
    engine.close()


def test_only_the_vocabulary_takes_no_torch(packed_bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "transformers", "gptqmodel", "optimum"):
        monkeypatch.setitem(sys.modules, name, None)
    folder = packed_bundles / "restaurant-awq-int4" / "awq"
    engine = GptqEngine(folder, vocab_only=True)
    assert engine.chat_template == (BASE / "chat_template.jinja").read_text() and 4 in engine.eos_ids
    with pytest.raises(RuntimeUnavailableError) as caught:
        GptqEngine(folder)
    assert "pip install 'edgekit[gptq]'" in str(caught.value)


def test_what_is_missing_is_named_before_anything_is_read(
    packed_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = here.hardware()
    bare = msgspec.structs.replace(
        machine, runtimes=[one for one in machine.runtimes if one.name == "llama.cpp"]
    )
    monkeypatch.setattr(here, "hardware", lambda: bare)
    with pytest.raises(RuntimeUnavailableError, match="gptqmodel isn't installed") as caught:
        edgekit.load(packed_bundles / "restaurant-awq-int4")
    assert "pip install 'edgekit[gptq]'" in str(caught.value)


def test_a_context_beyond_the_model_is_refused(packed_bundles: Path) -> None:
    with pytest.raises(InputError, match="longer than the model's"):
        GptqEngine(packed_bundles / "restaurant-gptq-int4" / "gptq", RowsOptions(n_ctx=1 << 20))


def test_what_was_changed_is_not_loaded(packed_bundles: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(packed_bundles / "restaurant-gptq-int4", tmp_path / "bundle"))
    weights = copied / "gptq" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BundleError, match="not what was built"), pytest.warns(RuntimeWarning, match="slowly"):
        edgekit.load(copied, verify=True)
    (copied / "gptq" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "stranger.safetensors"}})
    )
    (copied / "gptq" / "stranger.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match="isn't in the manifest"):
        Bundle.open(copied)
