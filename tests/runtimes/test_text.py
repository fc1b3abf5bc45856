"""Bytes to text: whole characters, and nothing of a stop string."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.runtimes.text import TextStream


def shown(pieces: list[bytes], stop: list[str] | None = None) -> list[str]:
    stream = TextStream(stop or [])
    texts = [stream.feed(piece) for piece in pieces]
    return [*texts, stream.finish()]


def test_a_character_waits_until_it_is_whole() -> None:
    assert shown([b"\xf0", b"\x9f\x98", b"\x80!"]) == ["", "", "😀!", ""]


def test_bytes_that_are_no_text() -> None:
    assert "".join(shown([b"a\xff", b"\xc3(", b"\xf0\x9f"])) == "a��(�"


def test_a_stop_string_over_several_tokens_is_never_shown() -> None:
    stream = TextStream(["STOP"])
    assert [stream.feed(piece) for piece in (b"go S", b"TO", b"P on", b"more")] == ["go ", "", "", ""]
    assert stream.stopped
    assert stream.finish() == ""


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    assert shown([b"aab", b"a", b"x"], ["abab"]) == ["a", "", "abax", ""]
    assert shown([b"ab"], ["abc"]) == ["", "ab"]


def test_the_stop_string_that_is_whole_first_counts() -> None:
    assert shown([b"one two three"], ["three", "two"]) == ["one ", ""]


@given(st.text(max_size=60), st.lists(st.text("ab\U0001f600", min_size=1, max_size=4), max_size=3), st.data())
def test_cut_anywhere_the_text_is_the_same(text: str, stop: list[str], data: st.DataObject) -> None:
    text = text + data.draw(st.text("ab\U0001f600", max_size=12))
    encoded = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=12)))
    edges = [0, *cuts, len(encoded)]
    pieces = [encoded[a:b] for a, b in pairwise(edges)]
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    assert "".join(shown(pieces, stop)) == text[: min(ends, default=(0, len(text)))[1]]


@pytest.mark.parametrize("stop", [[""], [1], "stop"])
def test_unsound_stop_strings(stop: list[str]) -> None:
    with pytest.raises(InputError, match="stop strings"):
        TextStream(stop)
