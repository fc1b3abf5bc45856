"""Ids that come more than once are counted, in fixed memory."""

from __future__ import annotations

import pytest

from edgekit.pipeline.sources import SeenIds


def test_ids_that_come_twice() -> None:
    seen = SeenIds()
    for n in range(30_000):
        seen.add(f"id {n}")
    assert seen.twice == 0
    for n in range(0, 30_000, 1000):
        seen.add(f"id {n}")
    assert (seen.twice, seen.first, seen.full) == (30, "id 0", False)


def test_a_full_table_of_ids_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SeenIds, "SLOTS", 64)
    monkeypatch.setattr(SeenIds, "MOST", 42)
    seen = SeenIds()
    for n in [*range(42), *range(42), *range(42)]:
        seen.add(f"id {n}")
    assert (seen.twice, seen.full) == (0, True)
