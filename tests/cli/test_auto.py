"""Choosing types, refining, recipes and the picture, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import edgekit
from tests.models import write_llama

SIZES = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/, data, a project file, and what one build made of them in dist/."""
    folder = tmp_path_factory.mktemp("auto")
    write_llama(folder / "base", **SIZES)
    (folder / "data.txt").write_text("A table for nine at eight, please, and tea for two. " * 30)
    (folder / "edgekit.toml").write_text(
        'name = "tiny"\nbase = "base"\nquantizations = ["auto", "Q4_K_M"]\ncalibration = "data.txt"\n'
        "auto = { bpw = 5.0 }\nrefine = true\n"
    )
    return folder


def test_a_project_says_it_all(tiny: Path) -> None:
    said = edgekit("build", cwd=tiny)
    assert "ffn_down" in said and "tiny-auto" in said and "token_embd" in said
    for name, asked in (("auto", "bpw <= 5"), ("q4_k_m", "Q4_K_M, refined")):
        found = json.loads(edgekit("inspect", tiny / "dist" / f"tiny-{name}", "--json"))
        assert found["allocation"]["asked"] == asked
        assert found["artifact"]["bits_per_weight"] <= (5.0 if name == "auto" else 6.0)
        shown = edgekit("inspect", tiny / "dist" / f"tiny-{name}")
        assert f"allocation         {asked}" in shown
        assert "layer" in shown and "IQ4_XS" in shown or "Q4_K" in shown
    artifact = tiny / "dist" / "tiny-q4_k_m" / "model.gguf"
    assert "ffn_up" not in edgekit("inspect", artifact)
    assert "ffn_up" in edgekit("inspect", artifact, "--types")
    # Another quantization of the same project takes no budget.
    edgekit("build", "--quant", "Q8_0", "-o", tiny / "other", cwd=tiny)
    given = [
        "--quant",
        "auto",
        "--recipe",
        tiny / "dist/tiny-auto/recipe.toml",
        "--calibration",
        tiny / "data.txt",
    ]
    edgekit("build", tiny / "base", *given, "-o", tiny / "again", "--name", "tiny")
    files = [tiny / place / "tiny-auto" / "model.gguf" for place in ("dist", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (["--quant", "Q4_K_M", "--bpw", "4.5"], 2, "--bpw goes with -q auto"),
        (["--quant", "auto"], 1, "auto has no budget"),
        (["--quant", "auto", "--bpw", "4.5"], 1, "pass --calibration FILE"),
        (["--quant", "auto", "--bpw", "4.5", "--max-kld", "1", "--calibration", "data.txt"], 1, "one budget"),
        (["--quant", "auto", "--bpw", "4.5", "--recipe", "r.toml"], 2, "leaves nothing to choose"),
        (["--quant", "auto", "--max-size", "two", "--calibration", "data.txt"], 1, "can't read the size"),
        (["--quant", "auto", "--max-size", "9", "--calibration", "data.txt"], 1, "bits per weight"),
        (["--refine"], 1, "refining needs data"),
    ],
)
def test_what_is_refused(tiny: Path, given: list[str], code: int, said: str) -> None:
    assert said in edgekit("build", "base", *given, "-o", "refused", code=code, cwd=tiny)
    assert not (tiny / "refused").exists() or not list((tiny / "refused").iterdir())


def test_only_models_have_types(tiny: Path) -> None:
    assert "--types goes with" in edgekit("inspect", tiny / "base", "--types", code=2)
