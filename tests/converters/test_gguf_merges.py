"""Adapters merged into our own GGUF file of every architecture that takes them: the bytes of merging the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.converters.adapter import Adapter
from edgekit.converters.gguf import plan, presets, stream
from edgekit.converters.gguf.gguf_source import PLAIN, ROTATED, GgufSource
from edgekit.converters.lora import Merged
from edgekit.errors import UnsupportedModelError
from tests.converters.cases import CASES
from tests.converters.oracles import add_lora, make, to_gguf
from tests.converters.quantizer import assert_same_tensors


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT's
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.lora])
def test_merging_into_the_file_is_merging_into_the_checkpoint(name: str, tmp_path: Path) -> None:
    add_lora(CASES[name], make(CASES[name], tmp_path / "base"), tmp_path / "lora")
    base = to_gguf(tmp_path / "base", tmp_path / "base.gguf")
    source = GgufSource(base)
    if source.arch not in ROTATED | PLAIN:
        with pytest.raises(UnsupportedModelError, match="aren't merged into a GGUF model"):
            GgufSource(base, merging=True)
        return
    for preset in ("F32", "Q8_0"):
        theirs = to_gguf(tmp_path / "base", tmp_path / "theirs.gguf", preset, tmp_path / "lora")
        source = GgufSource(base, merging=True)
        merged = Merged(source, [(Adapter(tmp_path / "lora"), 1.0)])
        laid = plan.lay_out_gguf(merged, source, merged.changed, "test")
        stream.write([plan.plan(laid, presets.preset(preset))], [tmp_path / "ours.gguf"], 2)
        assert_same_tensors(tmp_path / "ours.gguf", theirs)
