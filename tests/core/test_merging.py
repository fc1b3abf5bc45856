"""edgekit merge: PEFT's merge as a checkpoint, whole or not there."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from edgekit.build import build
from edgekit.converters import save
from edgekit.converters.checkpoint import Checkpoint
from edgekit.errors import AdapterError, EdgekitError, InputError
from edgekit.gguf_header import read_header
from edgekit.merging import merge
from edgekit.progress import Progress
from edgekit.project import BuildSpec
from tests.cli.test_commands import edgekit
from tests.converters.oracles import Case, add_lora, make
from tests.models import (
    attention_modules,
    llama_config,
    llama_weights,
    lora_arrays,
    write_adapter,
    write_llama,
)

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT's


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, Path]:
    base = write_llama(tmp_path / "base", dtype=ml_dtypes.bfloat16)
    return base, write_adapter(tmp_path / "lora", lora_arrays(llama_config(), attention_modules(2)))


@pytest.mark.parametrize("case", [Case("LlamaConfig", {}, lora=["q_proj", "down_proj"]), Case("GPT2Config", {}, lora=["c_attn", "c_fc"])], ids=["llama", "gpt2"])  # fmt: skip
def test_transformers_loads_what_peft_merges(case: Case, tmp_path: Path) -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    expected = add_lora(case, make(case, tmp_path / "base"), tmp_path / "lora")
    found = merge(tmp_path / "base", [(tmp_path / "lora", 1.0)], tmp_path / "out", threads=2)
    assert found.changed > 0 and found.shards == 1
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, expected(ids).logits, atol=1e-4)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("hello")["input_ids"]


def test_a_classifier_with_its_head(tmp_path: Path) -> None:
    """What no GGUF is made of: an encoder, its LoRA, and a head that was trained with it."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    config = transformers.BertConfig(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "base")
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    )
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    wrapped.save_pretrained(tmp_path / "lora")
    expected = wrapped.merge_and_unload().eval()
    merge(tmp_path / "base", [(tmp_path / "lora", 1.0)], tmp_path / "out")
    found = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        assert torch.allclose(found(ids).logits, expected(ids).logits, atol=1e-5)


def test_untouched_tensors_keep_their_bytes_whatever_the_threads(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    base, lora = tiny
    merge(base, [(lora, 1.0)], tmp_path / "one", threads=1, shard_bytes=60_000)
    found = merge(base, [(lora, 1.0)], tmp_path / "four", threads=4, shard_bytes=60_000)
    assert found.shards > 1
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "four" / path.name).read_bytes()
    before, after = Checkpoint(base), Checkpoint(tmp_path / "four")
    same = {name for name in before.names() if np.array_equal(before.read(name), after.read(name))}
    assert len(same) == len(before.names()) - found.changed
    assert {after.info(name).dtype for name in after.names()} == {"BF16"}


def test_several_adapters_with_weights(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    base, lora = tiny
    other = write_adapter(tmp_path / "other", lora_arrays(llama_config(), attention_modules(2), seed=5))
    merge(base, [(lora, 0.5), (other, -2.0)], tmp_path / "out", dtype="F32")
    name = "model.layers.1.self_attn.q_proj"
    wanted = llama_weights(llama_config())[f"{name}.weight"].astype(ml_dtypes.bfloat16).astype(np.float32)
    for seed, weight in ((1, 0.5), (5, -2.0)):
        arrays = lora_arrays(llama_config(), attention_modules(2), seed=seed)
        wanted = wanted + weight * 2 * arrays[f"{name}.lora_B.weight"] @ arrays[f"{name}.lora_A.weight"]
    assert np.allclose(Checkpoint(tmp_path / "out").read(f"{name}.weight"), wanted, atol=1e-5)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype", "float32")) == "float32"


def test_a_build_of_the_merge_is_the_build_of_its_parts(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    base, lora = tiny
    merge(base, [(lora, 1.0)], tmp_path / "merged", dtype="F32")
    spec = BuildSpec(base, tmp_path / "dist", "x", ((lora, 1.0),), ("F32",))
    (parts,) = build(spec)
    (whole,) = build(replace(spec, base=tmp_path / "merged", adapters=(), name="y"))
    data = [
        file.read_bytes()[_start(file) :] for file in (one.folder / "model.gguf" for one in (parts, whole))
    ]
    assert data[0] == data[1]


def _start(file: Path) -> int:
    return min(tensor.offset for tensor in read_header(file).tensors)


def test_nothing_is_left_of_what_fails(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, lora = tiny
    with pytest.raises(InputError, match="in this dtype"):
        merge(base, [], tmp_path / "out", dtype="Q8_0")

    class Interrupting(Progress):
        def advance(self, what: str, amount: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(base, [(lora, 1.0)], tmp_path / "out", progress=Interrupting())

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(EdgekitError, match="writing"):
        merge(base, [(lora, 1.0)], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "lora"]


def test_weights_that_are_no_numbers_or_too_large(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", dtype=ml_dtypes.bfloat16)
    arrays = lora_arrays(llama_config(), attention_modules(2))
    large = write_adapter(tmp_path / "large", {name: array * 3000 for name, array in arrays.items()})
    with pytest.raises(InputError, match="F16 can't"):
        merge(base, [(large, 1.0)], tmp_path / "out", dtype="F16")
    arrays["model.layers.0.self_attn.q_proj.lora_A.weight"][0, 0] = np.nan
    broken = write_adapter(tmp_path / "broken", arrays)
    with pytest.raises(EdgekitError, match="finite|NaN"):
        merge(base, [(broken, 1.0)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_refused(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    base, lora = tiny
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="takes a checkpoint"):
        merge(tmp_path / "model.gguf", [(lora, 1.0)], tmp_path / "out")
    wide = write_adapter(tmp_path / "wide", lora_arrays(llama_config(hidden_size=32), attention_modules(1)))
    with pytest.raises(AdapterError):
        merge(base, [(wide, 1.0)], tmp_path / "out")
    merge(base, [], tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        merge(base, [], tmp_path / "out")
    merge(base, [(lora, 1.0)], tmp_path / "out", force=True)
    assert save.plan(Checkpoint(tmp_path / "out"), None, 1 << 30)


def test_on_the_command_line(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    base, lora = tiny
    given = [base, "--adapter", f"{lora}:0.5", "-o", tmp_path / "out"]
    found = json.loads(edgekit("merge", *given, "--json"))
    assert (found["folder"], found["changed"], found["shards"]) == (str(tmp_path / "out"), 4, 1)
    assert "exists already" in edgekit("merge", *given, code=1)
    assert "4 tensors changed" in edgekit("merge", *given, "--force", "--shard-size", "50K")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
