"""Cores, and the limits that containers put on them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from edgekit.profiles import cpu


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000", None), ("200000 100000", 2), ("50000 100000", 1), ("junk", None), ("1 0", None)],
)
def test_cgroup_v2(tmp_path: Path, text: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert cpu.quota((tmp_path / "cpu.max", tmp_path / "none")) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", None), ("400000", 4), ("x", None)])
def test_cgroup_v1(tmp_path: Path, quota: str, cores: int | None) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu.cfs_period_us").write_text("100000")
    assert cpu.quota((tmp_path / "none", tmp_path / "cpu.cfs_quota_us")) == cores


def test_the_least_of_all_limits_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(cpu, "quota", lambda _: None)
    assert cpu.usable_cores() == 8
    monkeypatch.setattr(cpu, "quota", lambda _: 3)
    assert cpu.usable_cores() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert cpu.usable_cores() == 1
