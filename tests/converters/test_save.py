"""A merged checkpoint is what PEFT merges, and loads in transformers."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from edgekit.converters import save as save_module
from edgekit.converters.adapter import Adapter
from edgekit.converters.checkpoint import Checkpoint
from edgekit.converters.lora import Merged
from edgekit.converters.save import save
from edgekit.errors import InputError
from tests.converters.oracles import Case, add_lora, make
from tests.models import attention_modules, llama_config, lora_arrays, write_adapter, write_llama


def merged(folder: Path) -> Merged:
    return Merged(Checkpoint(folder / "base"), [(Adapter(folder / "lora"), 1.0)])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT's
@pytest.mark.parametrize("shard_bytes", [1 << 30, 100_000])
def test_it_loads_in_transformers_as_pefts_merge(tmp_path: Path, shard_bytes: int) -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    case = Case("LlamaConfig", {}, lora=["q_proj", "down_proj"])
    expected = add_lora(case, make(case, tmp_path / "base"), tmp_path / "lora")
    (tmp_path / "out").mkdir()
    save(merged(tmp_path), tmp_path / "base", tmp_path / "out", shard_bytes=shard_bytes)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == (1 if shard_bytes > 1 << 20 else 5)
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("hello")["input_ids"]
    parts = dict(found.named_parameters())
    for name, parameter in expected.named_parameters():
        assert torch.allclose(parts[name], parameter, atol=1e-6), name


def test_dtypes_are_kept_or_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save_module, "CHUNK_ELEMENTS", 1000)
    base = Checkpoint(write_llama(tmp_path / "base", dtype=ml_dtypes.bfloat16))
    for dtype, expected in (None, "BF16"), ("F16", "F16"), ("F32", "F32"):
        out = tmp_path / expected
        out.mkdir()
        seen: list[int] = []
        save(base, base.folder, out, dtype=dtype, report=lambda _, count, seen=seen: seen.append(count))  # type: ignore[misc]
        again = Checkpoint(out)
        assert {again.info(name).dtype for name in again.names()} == {expected}
        for name in base.names():
            assert np.array_equal(again.read(name), base.read(name).astype("f2" if dtype == "F16" else "f4"))
        assert sum(seen) == sum(base.info(name).size for name in base.names())


def test_what_is_beside_goes_along_and_the_config_is_the_merged_ones(tmp_path: Path) -> None:
    write_llama(tmp_path / "base", tie_word_embeddings=True)
    arrays = {
        f"lm_head.lora_{side}.weight": np.ones(shape, np.float32)
        for side, shape in (("A", (4, 64)), ("B", (384, 4)))
    }
    arrays |= lora_arrays(llama_config(), attention_modules(2))
    write_adapter(tmp_path / "lora", arrays, target_modules=["q_proj", "v_proj", "lm_head"])
    (tmp_path / "out").mkdir()
    save(merged(tmp_path), tmp_path / "base", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        tmp_path / "base" / "tokenizer.json"
    ).read_bytes()


def test_values_that_the_dtype_cannot_hold(tmp_path: Path) -> None:
    base = Checkpoint(write_llama(tmp_path / "base"))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="written in this dtype"):
        save(base, base.folder, tmp_path / "out", dtype="Q8_0")
    read = base.read
    base.read = lambda *rest, **named: read(*rest, **named) * np.float32(1e9)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="F16 can't"):
        save(base, base.folder, tmp_path / "out", dtype="F16")
