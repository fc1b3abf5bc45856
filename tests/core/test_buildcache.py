"""Builds that aren't repeated: what a key covers, and that nothing wrong ever comes out of a cache."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit import buildcache, buildkey, provenance
from edgekit.buildcache import build_cached
from edgekit.bundle import Bundle
from edgekit.digests import Digests
from edgekit.errors import InputError
from edgekit.project import BuildSpec
from tests.core.test_build import tree
from tests.core.test_orders import PAIR


@pytest.fixture
def both(spec: BuildSpec) -> BuildSpec:
    return replace(spec, quantizations=("Q8_0",), devices=PAIR)


def hows(spec: BuildSpec, cache: Path) -> list[str]:
    return [one.how for one in build_cached(spec, cache)]


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*given: Any, **more: Any) -> Any:
        raise AssertionError("built again")

    monkeypatch.setattr(buildcache, "build", build)


def test_built_then_unchanged_then_restored(
    both: BuildSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    found = build_cached(both, cache)
    assert [one.how for one in found] == ["built"] * 3 and len({one.key for one in found}) == 3
    first = tree(both.out)
    forbid(monkeypatch)
    assert hows(both, cache) == ["unchanged"] * 3
    shutil.rmtree(both.out)
    assert hows(both, cache) == ["restored"] * 3
    assert tree(both.out) == first
    elsewhere = replace(both, out=tmp_path / "elsewhere", threads=1)
    assert hows(elsewhere, cache) == ["restored"] * 3 and tree(elsewhere.out) == first
    assert hows(both, cache) == ["unchanged"] * 3


def test_only_what_changed_is_built(both: BuildSpec, tmp_path: Path) -> None:
    build_cached(both, tmp_path / "cache")
    more = replace(both, quantizations=("Q8_0", "F16"))
    assert hows(more, tmp_path / "cache") == ["unchanged", "built", "unchanged", "unchanged"]


def _edit(name: str, old: str, new: str) -> Callable[[BuildSpec], BuildSpec]:
    def change(spec: BuildSpec) -> BuildSpec:
        path = spec.base / name
        path.write_text(path.read_text().replace(old, new, 1))
        return spec

    return change


def _weight(spec: BuildSpec) -> BuildSpec:
    path = spec.adapters[0][0] / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    return spec


CHANGES: dict[str, Callable[[BuildSpec], BuildSpec]] = {
    "config": _edit("config.json", "256", "255"),
    "an adapter's last bit": _weight,
    "an adapter's weight": lambda spec: replace(spec, adapters=((spec.adapters[0][0], 0.5),)),
    "no adapter": lambda spec: replace(spec, adapters=()),
    "version": lambda spec: replace(spec, version="0.2.0"),
    "counter": lambda spec: replace(spec, counter=2),
    "prompt": lambda spec: replace(spec, prompt="{text}?"),
    "schema": lambda spec: replace(spec, output_schema={"type": "string"}),
    "licence": lambda spec: replace(spec, licence="MIT"),
    "quantization": lambda spec: replace(spec, quantizations=("Q4_0",)),
    "a tensor's type": lambda spec: replace(spec, tensor_types=("ffn_down=q8_0",)),
    "target": lambda spec: replace(spec, quantizations=(), devices=PAIR[:1]),
    "another target": lambda spec: replace(spec, quantizations=(), devices=PAIR[1:]),
}


def test_a_key_covers_all_that_decides_the_bytes(spec: BuildSpec, tmp_path: Path) -> None:
    spec = replace(spec, quantizations=("Q8_0",))
    key = buildkey.key(spec, Digests(tmp_path))
    assert key == buildkey.key(replace(spec, out=tmp_path, threads=1, force=True), Digests(tmp_path))
    keys = [buildkey.key(change(spec), Digests(tmp_path / name)) for name, change in CHANGES.items()]
    assert len({key, *keys}) == len(CHANGES) + 1


def test_a_key_covers_tools_and_code(
    spec: BuildSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {buildkey.key(spec, Digests(tmp_path))}
    monkeypatch.setattr(provenance, "__version__", "9.9.9")
    keys.add(buildkey.key(spec, Digests(tmp_path)))
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(buildkey, "files", lambda name: package)
    for code in ("x = 1\n", "x = 2\n"):
        (package / "a.py").write_text(code)
        keys.add(buildkey.key(spec, Digests(tmp_path)))
    assert len(keys) == 4


def test_a_base_that_is_a_file(base_gguf: Path, tmp_path: Path) -> None:
    spec = BuildSpec(base_gguf, tmp_path / "out", "tiny", quantizations=("Q4_0",), threads=2)
    assert hows(spec, tmp_path / "cache") == ["built"]
    assert hows(spec, tmp_path / "cache") == ["unchanged"]


def test_what_is_in_its_place_and_is_something_else_is_kept(both: BuildSpec, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    build_cached(both, cache)
    path = both.out / "tiny-q8_0" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": "mine"}))
    with pytest.raises(InputError, match="exists already"):
        build_cached(both, cache)
    assert "mine" in path.read_text()
    assert hows(replace(both, force=True), cache) == ["restored", "unchanged", "unchanged"]
    assert "mine" not in path.read_text()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    about = path.stat()
    path.write_bytes(bytes(data))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink])
@pytest.mark.parametrize("name", ["model.gguf", "manifest.json", "golden.json"])
def test_a_damaged_entry_is_built_again(
    spec: BuildSpec, tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    spec, cache = replace(spec, quantizations=("Q8_0",)), tmp_path / "cache"
    (found,) = build_cached(spec, cache)
    first = tree(spec.out)
    damage(cache / "bundles" / found.key / name)
    shutil.rmtree(spec.out)
    assert hows(spec, cache) == ["built"]
    assert tree(spec.out) == first and Bundle.open(cache / "bundles" / found.key).problems() == []


def test_sources_that_change_meanwhile_arent_kept(
    spec: BuildSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.build import build as real

    def build(*given: Any, **more: Any) -> Any:
        _weight(spec)
        return real(*given, **more)

    monkeypatch.setattr(buildcache, "build", build)
    spec = replace(spec, quantizations=("Q8_0",))
    hashed = buildkey.key(spec, Digests(tmp_path))
    (found,) = build_cached(spec, tmp_path / "cache")
    assert found.key == hashed and not (tmp_path / "cache" / "bundles" / hashed).exists()


def test_llama_cpps_converter_isnt_cached(spec: BuildSpec, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be cached"):
        build_cached(replace(spec, llama_cpp=tmp_path), tmp_path / "cache")
