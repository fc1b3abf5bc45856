"""Spans of leaves: slices of the answer are the JSON of the values at their paths."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.spans import spans

KEYS = st.text(st.characters(codec="utf-8"), max_size=4) | st.sampled_from(
    ["a", "b", "$", "a.b", "x[0]", '"', "\\", ""]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every leaf with its path, from the value itself: knows nothing of text."""
    if isinstance(value, dict) and value:
        found = []
        for key, inner in value.items():
            plain = key and not set(key) & set('.[]"$')
            step = (f".{key}" if path else key) if plain else f"[{json.dumps(key, ensure_ascii=False)}]"
            found += leaves(inner, path + step)
        return found
    if isinstance(value, list) and value:
        return [leaf for index, inner in enumerate(value) for leaf in leaves(inner, f"{path}[{index}]")]
    return [(path or "$", value)]


@pytest.mark.parametrize("ascii_only", [True, False])
@given(value=VALUES)
def test_spans_slice_back_to_the_leaves(ascii_only: bool, value: Any) -> None:
    def dump(part: Any) -> bytes:
        return json.dumps(part, separators=(",", ":"), ensure_ascii=ascii_only).encode()

    answer = dump(value)
    found = spans(answer)
    assert [(path, answer[start:end]) for path, start, end in found] == [
        (path, dump(leaf)) for path, leaf in leaves(value)
    ]
    assert len({span.path for span in found}) == len(found)
    assert all(one.end <= other.start for one, other in pairwise(found))


def test_paths_that_people_read() -> None:
    answer = (
        b'{"name":"A","address":{"city":"B"},"items":[{"price":1},{"price":2.5e-3}],"none":[],"a.b":null}'
    )
    assert {span.path: answer[span.start : span.end].decode() for span in spans(answer)} == {
        "name": '"A"', "address.city": '"B"', "items[0].price": "1", "items[1].price": "2.5e-3", "none": "[]",
        '["a.b"]': "null",
    }  # fmt: skip


@given(
    inner=st.lists(
        st.sampled_from(['"k":1', '"k":{"x":2}', '"k":[3,4]', '"kk":5', '"k":{"x":{"y":6}}']), min_size=1
    )
)
def test_of_a_repeated_key_the_last_counts(inner: list[str]) -> None:
    answer = "{" + ",".join(inner) + "}"
    data = json.loads(answer)
    assert {s.path: json.loads(answer[s.start : s.end]) for s in spans(answer.encode())} == dict(leaves(data))


@pytest.mark.parametrize(
    "answer",
    [
        b"", b" 1", b"1 ", b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,', b'{"a":1,}', b'{a:1}', b"[1", b"[1,", b"[1,]",
        b'{"a": 1}', b"nul", b'"a', b'"\n"', b"01", b"1.", b"+1", b"NaN", b"{}{}", b'"\\', b'{"a":1]', b"[1}",
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_isnt_compact_json_is_refused(answer: bytes) -> None:
    with pytest.raises(InputError, match="isn't compact JSON"):
        spans(answer)


@given(value=VALUES, data=st.data())
def test_an_answer_that_was_cut_off_is_never_read_as_whole(value: Any, data: st.DataObject) -> None:
    answer = json.dumps([value], separators=(",", ":")).encode()
    cut = data.draw(st.integers(0, len(answer) - 1))
    with pytest.raises(InputError, match=re.escape("byte ")) as caught:
        spans(answer[:cut])
    assert "byte" in str(caught.value)
