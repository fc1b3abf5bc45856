"""gptqmodel in its process: what it makes, what it refuses, and what has to be there before it begins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.build import build
from edgekit.converters import gptq
from edgekit.converters.child import Export
from edgekit.errors import InputError, RuntimeUnavailableError, UnsupportedModelError
from edgekit.gptq_settings import GptqSettings
from edgekit.packed_folder import read_packed
from edgekit.project import BuildSpec
from edgekit.settings import parse
from tests.core.test_build import tree
from tests.models import write_llama

WORDS = [[5, 9, 30, 31, 70, 71, 72, 90] * 8] * 4


@pytest.fixture
def builder() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("optimum")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "base", hidden_size=128, intermediate_size=128)


def export(
    checkpoint: Path, out: Path, method: str = "gptq", bits: int = 4, settings: str = "group_size=32"
) -> Export:
    asked = parse(settings.split(), GptqSettings, "GPTQ")
    return gptq.export(checkpoint, out, method, bits, asked, WORDS, lambda *_: None)


@pytest.mark.usefixtures("builder")
@pytest.mark.parametrize(
    ("method", "bits", "settings"),
    [("gptq", 4, "group_size=32"), ("gptq", 8, "group_size=64 act_order=true"), ("awq", 4, "group_size=32")],
)
def test_bits_and_groups_are_what_was_asked_for(
    checkpoint: Path, tmp_path: Path, method: str, bits: int, settings: str
) -> None:
    found = export(checkpoint, tmp_path / "out", method, bits, settings)
    assert found.seconds > 0 and found.peak is not None
    read = read_packed(tmp_path / "out")
    assert (read.method, read.bits) == (method, bits) and f"group_size={read.group_size}" in settings
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    if bits == 4:
        export(checkpoint, tmp_path / "again", method, bits, settings)
        assert tree(tmp_path / "again") == tree(tmp_path / "out")  # no time and no place in it
    assert not list((tmp_path / "out").glob("*.csv"))


@pytest.mark.usefixtures("builder")
def test_groups_that_rows_can_not_be_cut_into(tmp_path: Path) -> None:
    odd = write_llama(tmp_path / "base", intermediate_size=96)
    with pytest.raises(InputError, match="group_size=32"):
        export(odd, tmp_path / "out", settings="group_size=128")


@pytest.mark.usefixtures("builder")
def test_a_model_that_gptqmodel_does_not_know_is_named(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"architectures": ["NoSuchModel"], "model_type": "no-such"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises((UnsupportedModelError, InputError)) as caught:
        export(checkpoint, tmp_path / "out")
    assert "no-such" in str(caught.value) or "NoSuchModel" in str(caught.value)


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "NEEDED", ("nothing_of_that_name",))
    with pytest.raises(RuntimeUnavailableError) as caught:
        gptq.check()
    assert "nothing_of_that_name" in str(caught.value) and "pip install 'edgekit[gptq]'" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"calibration": None}, "--calibration FILE"),
        ({"quantizations": ("Q4_K_M",)}, "INT4, INT8, INT3, INT2"),
        ({"format": "awq", "quantizations": ("INT8",)}, "expected: INT4"),
        ({"refine": True}, "--refine"),
        ({"calibration": "short.txt"}, "too little to calibrate on"),
        ({"calibration": "empty.txt"}, "empty"),
        ({"calibration": "broken.jsonl"}, "line 1"),
    ],
)
def test_what_can_not_be_built_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], words: str
) -> None:
    monkeypatch.setattr(gptq, "NEEDED", ())
    for name, text in (("short.txt", "Too short."), ("empty.txt", " "), ("broken.jsonl", "{")):
        (tmp_path / name).write_text(text)
    if isinstance(named := changes.get("calibration"), str):
        changes = changes | {"calibration": tmp_path / named}
    data = tmp_path / "data.txt"
    data.write_text("The quick brown fox. " * 100)
    spec = BuildSpec(
        checkpoint, tmp_path / "out", "tiny", (), ("INT4",), format="gptq", calibration=data, threads=2,
        gptq=GptqSettings(group_size=32, length=64),
    )  # fmt: skip
    with pytest.raises(InputError, match=words):
        build(replace(spec, **changes))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
