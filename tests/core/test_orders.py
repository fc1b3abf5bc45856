"""Bundles for devices: what a plan chose is built, in one pass, and says what it was built for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import edgekit
from edgekit.build import build
from edgekit.bundle import Bundle
from edgekit.converters.checkpoint import Checkpoint
from edgekit.errors import HardwareError, InputError
from edgekit.plan import plan
from edgekit.profiles import devices
from edgekit.profiles.devices import Device
from edgekit.project import BuildSpec
from tests.core.test_build import tree


def device(like: str, /, *quantizations: str, **changes: Any) -> Device:
    return msgspec.structs.replace(devices.load(like), quantizations=list(quantizations), **changes)


PAIR = (device("laptop-8gb", "Q4_0"), device("raspberry-pi-5-8gb", "Q8_0"))


def test_one_bundle_each_with_its_target(spec: BuildSpec) -> None:
    both = replace(spec, devices=PAIR, quantizations=("F16",))
    built = build(both)
    assert [one.folder.name for one in built] == ["tiny-f16", "tiny-laptop-8gb", "tiny-raspberry-pi-5-8gb"]
    _, planned = plan(both, PAIR)
    for one, expected in zip(built[1:], planned, strict=True):
        row = next(row for row in expected.rows if row.chosen)
        manifest, target = one.manifest, one.manifest.target
        assert target is not None and target.name == expected.device.name
        assert (manifest.quantization, one.size) == (row.quantization, row.size_bytes)
        assert target.memory == row.memory_bytes[row.context] == manifest.requirements.memory["256"]
        opened = Bundle.open(one.folder)
        assert opened.problems() == [] and opened.manifest == manifest
    assert built[0].manifest.target is None


def test_built_twice_the_same_bytes(spec: BuildSpec, tmp_path: Path) -> None:
    build(replace(spec, devices=PAIR, quantizations=()))
    build(replace(spec, devices=PAIR, quantizations=(), out=tmp_path / "again"))
    assert tree(tmp_path / "again") == tree(spec.out)


def test_devices_that_get_the_same_share_its_file(spec: BuildSpec) -> None:
    pair = (device("laptop-8gb", "Q8_0"), device("laptop-16gb", "Q8_0"))
    one, other = (built.folder for built in build(replace(spec, devices=pair, quantizations=())))
    assert (one / "model.gguf").samefile(other / "model.gguf")
    assert Bundle.open(other).problems() == []
    assert Bundle.open(one).manifest.target != Bundle.open(other).manifest.target


def test_two_targets_read_what_one_does(spec: BuildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    read = Checkpoint.read

    def counting(self: Checkpoint, *given: Any, **more: Any) -> Any:
        rows = read(self, *given, **more)
        counted.append(rows.size)
        return rows

    monkeypatch.setattr(Checkpoint, "read", counting)
    build(replace(spec, devices=PAIR[:1], quantizations=()))
    once = sum(counted)
    counted.clear()
    build(replace(spec, devices=PAIR, quantizations=(), force=True))
    assert once > 0 and sum(counted) == once


def test_a_device_that_gets_nothing_stops_everything(spec: BuildSpec) -> None:
    tight = device("industrial-pc-4gb", budget_gb=0.01)
    with pytest.raises(HardwareError, match="nothing of this model is good enough for industrial-pc-4gb"):
        build(replace(spec, devices=(*PAIR, tight)))
    assert not spec.out.exists() or not list(spec.out.iterdir())


def test_a_target_that_is_called_as_a_quantization(spec: BuildSpec) -> None:
    with pytest.raises(InputError, match="two bundles would have one name"):
        build(replace(spec, devices=(device("laptop-8gb", name="q8_0"),), quantizations=("Q8_0",)))


def test_another_machine_is_warned_about(spec: BuildSpec) -> None:
    foreign = device("laptop-8gb", architecture="wasm32")
    (built,) = build(replace(spec, devices=(foreign,), quantizations=()))
    with pytest.warns(RuntimeWarning, match="built for laptop-8gb: its speed was predicted for wasm32"):
        edgekit.load(built.folder).close()
