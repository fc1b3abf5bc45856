"""transformers as the reference of an evaluation: an independent judge of the whole way to a bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.build import build
from edgekit.errors import InputError, RuntimeUnavailableError
from edgekit.evaluate import Plan, evaluate
from edgekit.project import BuildSpec
from tests.cli.test_commands import edgekit
from tests.evaluation.conftest import TEXT
from tests.models import attention_modules, llama_config, lora_arrays, write_adapter, write_llama


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a LoRA, and their bundles in F32 and Q4_0; a text."""
    folder = tmp_path_factory.mktemp("judge")
    base = write_llama(folder / "base")
    lora = write_adapter(folder / "lora", lora_arrays(llama_config(), attention_modules(2)))
    build(BuildSpec(base, folder / "dist", "tiny", ((lora, 1.0),), ("F32", "Q4_0")))
    (folder / "text.txt").write_text(TEXT)
    return folder


def plan(made: Path, **changes: Any) -> Plan:
    given: dict[str, Any] = {
        "bundles": (made / "dist/tiny-f32", made / "dist/tiny-q4_0"), "reference": made / "base",
        "adapters": ((made / "lora", 1.0),), "text": made / "text.txt", "speed": False,
        "reference_runtime": "transformers",
    }  # fmt: skip
    return Plan(**given | changes)


def test_an_f32_bundle_is_the_model_and_a_quantized_one_is_as_far_as_from_llama_cpp(made: Path) -> None:
    pytest.importorskip("transformers")
    found = evaluate(plan(made))
    exact, rounded = (row.text for row in found.rows)
    assert exact and rounded and exact.reference and rounded.reference
    assert exact.reference.kld.value < 1e-6
    assert found.reference and found.reference.quantization == "F32"
    ours = evaluate(plan(made, reference_runtime="llama.cpp", reference_type="F32")).rows[1].text
    assert ours and ours.reference
    assert rounded.reference.kld.value == pytest.approx(ours.reference.kld.value, rel=0.01)
    assert rounded.reference.kld.value > 100 * exact.reference.kld.value
    # Without the adapter it is another model.
    other = evaluate(plan(made, adapters=())).rows[0].text
    assert other and other.reference and other.reference.kld.value > 100 * exact.reference.kld.value


def test_the_real_example(base: Path, adapter: Path, bundles: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    text = tmp_path / "text.txt"
    text.write_text("A table for nine at eight, please, and the name is Anna Pavlovna. " * 40)
    given = {"bundles": (bundles / "restaurant-f32",), "reference": base, "adapters": ((adapter, 1.0),)}
    (row,) = evaluate(plan(tmp_path, **given, text=text, chunk=256, chunks=2)).rows
    assert row.text and row.text.reference and row.text.reference.kld.value < 1e-6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": Path("t.jsonl")}, "for texts only"),
        ({"reference": None, "adapters": ()}, "reads a checkpoint"),
        ({"reference": Path("model.gguf")}, "reads a checkpoint"),
        ({"reference_runtime": "vllm"}, "no such runtime"),
    ],
)
def test_what_it_is_not_for(made: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan(made, **changes)


def test_without_the_extra_it_says_what_to_install(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RuntimeUnavailableError, match=r"edgekit\[transformers\]"):
        evaluate(plan(made))


def test_on_the_command_line(made: Path) -> None:
    pytest.importorskip("transformers")
    given = [
        "--reference",
        made / "base",
        "--adapter",
        made / "lora",
        "--text",
        made / "text.txt",
        "--no-speed",
    ]
    said = edgekit("eval", made / "dist/tiny-f32", *given, "--reference-runtime", "transformers")
    assert "in F32" in said and "KL divergence" in said
