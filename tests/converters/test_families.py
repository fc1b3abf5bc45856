"""Every family: its F32 file gives transformers' logits and greedy text, with and without a LoRA on every layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.converters.gguf import families
from edgekit.converters.gguf.checked import checked
from edgekit.converters.text_model import WRAPPERS
from tests.converters.cases import CASES
from tests.converters.oracles import add_lora, assert_same_answers, make, to_gguf


@pytest.mark.parametrize("name", CASES)
def test_logits_and_greedy_text_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = make(CASES[name], tmp_path / "base")
    vocab = model.config.get_text_config().vocab_size
    assert_same_answers(to_gguf(tmp_path / "base", tmp_path / "base.gguf"), model, vocab)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT's
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.lora])
def test_a_lora_on_every_linear_layer_merges_as_pefts_does(name: str, tmp_path: Path) -> None:
    model = make(CASES[name], tmp_path / "base")
    merged = add_lora(CASES[name], model, tmp_path / "lora")
    artifact = to_gguf(tmp_path / "base", tmp_path / "merged.gguf", adapter=tmp_path / "lora")
    assert_same_answers(artifact, merged, merged.config.get_text_config().vocab_size)


def test_the_table_that_is_printed_has_every_case_and_every_family() -> None:
    """Run ``make families`` after adding one."""
    assert [one.model for one in checked()] == list(CASES)
    known = {name for family in families.FAMILIES for name in family.ARCHITECTURES}
    assert {one.architecture for one in checked()} == known | set(WRAPPERS)
    assert {one.gguf for one in checked()} == {family.ARCH for family in families.FAMILIES}
    assert all(one.logits <= 1e-3 and (one.lora or 0) <= 1e-3 for one in checked())
