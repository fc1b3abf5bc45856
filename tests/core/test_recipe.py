"""Budgets and recipes: written, read, and understood by llama.cpp's own quantizer."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from edgekit import recipe
from edgekit.budget import Budget, parse_bytes
from edgekit.errors import InputError
from edgekit.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("2.1GB", 2_100_000_000),
        ("500M", 500_000_000),
        ("64KiB", 65_536),
        ("4,788,768", 4_788_768),
        ("1 g", 10**9),
    ],
)
def test_sizes(text: str, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "2X", "-1GB", "0", "nan", "1e", "infG"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="can't read the size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    "given", [{}, {"bpw": 4.5, "max_kld": 0.1}, {"bpw": 0.0}, {"bpw": float("nan")}, {"max_size": -3}]
)
def test_budgets_that_are_none(given: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Budget(**given)  # type: ignore[arg-type]


TYPES = {
    "blk.0.attn_q.weight": "Q4_K",
    "blk.10.attn_q.weight": "Q4_K",
    "blk.1.attn_q.weight": "Q6_K",
    "blk.0.attn_qkv.weight": "Q5_K",
    "token_embd.weight": "Q8_0",
}


def test_patterns_find_each_tensor_once_and_no_other() -> None:
    patterns = recipe.patterns(TYPES)
    for name, kind in TYPES.items():
        assert [found for one, found in patterns.items() if re.search(one, name)] == [kind.lower()]
    assert not [one for one in patterns if re.search(one, "blk.11.attn_q.weight")]
    assert len(patterns) == 4


def test_text_is_toml_that_comes_back(tmp_path: Path) -> None:
    written = Recipe(1, "Q4_K_M", recipe.patterns(TYPES), "feedback", 0.75)
    place = tmp_path / "recipe.toml"
    place.write_text(recipe.text(written, "bpw <= 4.5"))
    assert recipe.read(place) == written
    assert tomllib.loads(place.read_text())["types"] == written.types


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("format = 2\npreset = 'Q4_K_M'\n[types]", "another format"),
        ("format = 1\npreset = 'Q4_K_M'\nrounding = 'up'\n[types]", "no such rounding"),
        ("format = 1\npreset = 'Q4_K_M'\nstrength = 2.0\n[types]", "strength"),
        ("format = 1\npreset = 'Q4_K_M'\nstrenth = 1.0\n[types]", "strenth"),
        ("format = 1\n[types]", "preset"),
        ("{", "can't read"),
    ],
)
def test_recipes_that_are_refused(tmp_path: Path, lines: str, said: str) -> None:
    place = tmp_path / "recipe.toml"
    place.write_text(lines)
    with pytest.raises(InputError, match=said):
        recipe.read(place)
