"""Evidence: which token counts for which field, held against a brute-force account of bytes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.confidence import LIMIT, Trace, evidence, log_odds
from edgekit.errors import InputError
from edgekit.spans import spans

FORCED = (0.0, -math.inf)


def trace(*tokens: tuple[str, float] | str) -> Trace:
    """Tokens with their probabilities, the rest of which the runner-up has; plain text is forced."""
    pieces, logprobs, seconds = [], [], []
    for token in tokens:
        piece, chance = (token, None) if isinstance(token, str) else token
        pieces.append(piece.encode())
        logprobs.append(0.0 if chance is None else math.log(chance))
        seconds.append(-math.inf if chance is None else math.log(1 - chance))
    return Trace(pieces, logprobs, seconds)


def raw(*tokens: tuple[str, float] | str) -> dict[str, float]:
    fields, overall = evidence(trace(*tokens)).raw()
    return {name: round(value, 6) for name, value in (fields | {"overall": overall}).items()}


def test_null_or_not_is_the_values_own_decision() -> None:
    # `":` against `":"` decides that there is no value, though no byte of it touches the value
    found = raw('{"', "a", ('":', 0.5), ("null", 0.8), ',"', "b", ('":"', 0.9), ("x", 0.5), ('"}', 0.5))
    assert found == {"a": 0.4, "b": 0.225, "overall": 0.09}


def test_the_token_that_ends_a_string_doesnt_begin_the_next() -> None:
    found = raw('{"a":"', ("x", 0.5), ('","', 0.5), 'b":', ("null", 0.5), "}")
    assert found == {"a": 0.25, "b": 0.5, "overall": 0.125}


def test_a_token_over_two_values_counts_for_both_and_once_overall() -> None:
    found = raw('{"a":"', ("x", 0.5), ('","b":"', 0.5), ("y", 0.5), '"}')
    assert found == {"a": 0.25, "b": 0.25, "overall": 0.125}


def test_a_number_ends_with_the_byte_after_it() -> None:
    assert raw('{"a":', ("1", 0.5), ('2,"', 0.5), 'b":', ("3", 0.5), ("}", 0.5)) == {
        "a": 0.25, "b": 0.25, "overall": 0.0625
    }  # fmt: skip
    # within 12 and then at its end, where it could have gone on
    assert raw("[", ("1", 0.5), ("2", 0.5), (",", 0.5), ("3", 0.5), ("]", 0.5))["[0]"] == 0.125
    # a bare number is over when the answer is: the end token has no bytes
    assert raw(("7", 0.5), ("", 0.5)) == {"$": 0.25, "overall": 0.25}


def test_a_key_that_could_be_left_out_counts_for_its_value() -> None:
    # null ended by itself: the comma says that another field follows
    found = raw('{"a":', ("null", 0.5), (',"', 0.5), ('b":', 0.5), ("true", 0.5), ("}", 0.5))
    assert found == {"a": 0.5, "b": 0.125, "overall": 0.03125}


def test_margin_is_the_narrowest_lead() -> None:
    answer = evidence(trace('{"a":"', ("x", 0.9), ("y", 0.6), ('"}', 0.99))).leaves[0]
    assert answer.margin == pytest.approx(math.log(0.6 / 0.4))
    assert evidence(trace('{"a":', "null}")).leaves[0].margin == LIMIT
    lost = evidence(Trace([b"[", b"1", b"]"], [0.0, -30.0, 0.0], [-math.inf, -1e-13, -math.inf])).leaves[0]
    assert lost.margin == -LIMIT and lost.features()[1] == -LIMIT


@pytest.mark.parametrize(
    ("literal", "text", "unseen"),
    [
        ('"Ada"', "ADA came", False), ('"Eve"', "ada came", True), ('"a\\"b"', 'say a"b', False), ("3", "for 3", False),
        ("4", "for 3", True), ("null", "", False), ("true", "", False), ("[]", "", False), ('"\\u00e9"', "É", False),
    ],
)  # fmt: skip
def test_whether_a_value_stands_in_the_text(literal: str, text: str, unseen: bool) -> None:
    leaf = evidence(trace('{"a":' + literal + "}"), text).leaves[0]
    assert (leaf.unseen, leaf.null) == (unseen, literal == "null")
    assert not evidence(trace('{"a":' + literal + "}")).leaves[0].unseen  # no text, nothing to miss


RECORDS = st.dictionaries(
    st.sampled_from(["a", "bb", "c.c"]),
    st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(0, 99), max_size=3),
    min_size=1,
)


@given(value=RECORDS, data=st.data())
def test_every_token_is_counted_as_a_byte_by_byte_account_has_it(
    value: dict[str, Any], data: st.DataObject
) -> None:
    answer = json.dumps(value, separators=(",", ":")).encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1))))
    pieces = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    chances = data.draw(st.lists(st.floats(0.01, 1), min_size=len(pieces), max_size=len(pieces)))
    logs = [math.log(chance) for chance in chances]
    found = evidence(Trace(pieces, logs, [-50.0] * len(pieces)))

    places = spans(answer)
    owner: list[int] = []  # of every byte: the leaf it belongs to or leads to
    for index, place in enumerate(places):
        number = answer[place.start : place.start + 1] not in (b'"', b"n", b"[")
        end = min(len(answer), place.end + number)
        owner += [index] * (end - len(owner))
    owner += [len(places)] * (len(answer) - len(owner))
    expected = [0.0] * (len(places) + 1)
    at = 0
    for piece, log in zip(pieces, logs, strict=True):
        touched = range(at, at + len(piece))
        owners = {owner[at]} | {
            i for i, place in enumerate(places) if set(touched) & set(range(place.start, place.end))
        }
        for index in owners:
            expected[index] += log
        at += len(piece)
    assert [leaf.logprob for leaf in found.leaves] == pytest.approx(expected[:-1])
    assert found.structure == pytest.approx(expected[-1])


@given(st.floats(-60, 0))
def test_log_odds_are_those_of_the_probability(logprob: float) -> None:
    p = math.exp(logprob)
    exact = math.inf if p == 1 else math.log(p / (1 - p))
    assert log_odds(logprob) == pytest.approx(
        max(-LIMIT, min(LIMIT, exact)), abs=0.2 if p > 1 - 2e-6 else 1e-6
    )


def test_lists_of_one_length_and_a_whole_answer() -> None:
    with pytest.raises(InputError, match="differ in length"):
        Trace([b"1"], [0.0], [])
    with pytest.raises(InputError, match="compact JSON"):
        evidence(trace('{"a":"x'))
