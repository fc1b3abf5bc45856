"""Bundles that were changed after they were built, and things that are none: found before they are used."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import build as pipeline
from edgekit import golden
from edgekit.bundle import Bundle
from edgekit.errors import BundleError, InputError
from edgekit.project import BuildSpec


def test_verify_finds_what_was_changed(spec: BuildSpec) -> None:
    folder = pipeline.build(replace(spec, quantizations=("Q8_0",)))[0].folder
    artifact = folder / "model.gguf"
    blob = bytearray(artifact.read_bytes())
    blob[-5] ^= 1
    artifact.write_bytes(blob)
    (folder / "stranger.txt").write_text("hello")
    (folder / "link").symlink_to("/etc/passwd")
    problems = Bundle.open(folder).problems()
    assert any("model.gguf" in p for p in problems) and any("stranger.txt" in p for p in problems)
    assert any("link" in p for p in problems) and len(problems) == 3
    artifact.write_bytes(blob[:-1])
    with pytest.raises(BundleError, match="wrong size"):
        Bundle.open(folder)
    artifact.unlink()
    with pytest.raises(BundleError, match="is missing"):
        Bundle.open(folder)


def test_load_verifies_the_file_that_it_loads(spec: BuildSpec) -> None:
    from edgekit.model import load

    folder = pipeline.build(replace(spec, quantizations=("Q8_0",)))[0].folder
    with load(folder, verify=True, threads=1) as model:
        assert model.generate("a", max_tokens=2) is not None
    with (folder / "model.gguf").open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"x")
    with pytest.raises(BundleError, match="not what was built"):
        load(folder, verify=True)
    with pytest.raises(InputError, match="only a bundle"):
        load(folder / "model.gguf", verify=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "another version of edgekit"),
        ({"unknown": 1}, "unknown"),
        ({"counter": "1"}, "counter"),
        ({"files": [{"path": "../x", "size": 1, "sha256": "0"}]}, "leaves its folder"),
        ({"files": [{"path": "/etc/passwd", "size": 1, "sha256": "0"}]}, "leaves its folder"),
    ],
)
def test_unsound_manifests(bundles: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = tmp_path / "b"
    shutil.copytree(bundles / "restaurant-q4_k_m", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


def test_things_that_are_not_bundles(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    for name, message in (("nowhere", "not a bundle"), ("file", "not a bundle"), ("broken", "unsound")):
        with pytest.raises(BundleError, match=message):
            Bundle.open(tmp_path / name)


def test_replay_notices_another_model(bundles: Path) -> None:
    from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

    recorded = golden.read(Bundle.open(bundles / "restaurant-f32"))
    engine = LlamaCppEngine(bundles / "restaurant-q4_k_m" / "model.gguf", LlamaCppOptions(n_ctx=512))
    try:
        assert golden.replay(engine, recorded).differences
        recorded.tokens[0].ids[0] += 1
        recorded.prompts[0].text += "x"
        recorded.logits[0].top[0] = (10**6, 1.0)
        recorded.prompts[1].messages = []
        found = golden.replay(engine, recorded).differences
    finally:
        engine.close()
    assert any("other token ids" in d for d in found) and any("another prompt" in d for d in found)
    assert any("doesn't have" in d for d in found) and any("no messages" in d for d in found)


def test_replay_does_not_pass_on_nothing_or_on_nan(bundles: Path) -> None:
    from edgekit.runtimes.fake import FakeEngine

    class Broken(FakeEngine):
        def decode(self, runs: Any) -> Any:
            return [logits * np.nan for logits in super().decode(runs)]

    engine = Broken("ok")
    text = golden.Tokens("a", engine.tokenize("a", special=False))
    one = golden.Golden([text], [], [golden.Logits(text.ids, [(5, 1.0)])])
    assert golden.replay(engine, one).differences
    assert golden.replay(FakeEngine("ok"), golden.Golden([], [], [])).differences
    with pytest.raises(InputError, match="aren't finite"):
        golden.record(engine)
