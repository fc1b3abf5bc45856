"""The second opinion on answers against jsonschema's, on schemas and values made at random."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.runtimes.constraint import Vocabulary
from edgekit.runtimes.grammars import choice_grammar, compile_schema, regex_grammar
from edgekit.runtimes.schema import check_schema
from edgekit.runtimes.schema_limits import resolve
from edgekit.runtimes.shortest import check_room, shortest
from edgekit.runtimes.validity import MAX_PROBLEMS, Validator
from tests.benchmarks.masks import Words
from tests.runtimes.test_constraint import SCHEMAS
from tests.runtimes.walks import VOCABULARY, walk

SMALL = st.integers(0, 3)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.sampled_from([0.5, 1.0, 2.0, -0.3]),
        st.text("ab", max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=6,
)
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "object", "array"])


def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.booleans(),
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.one_of(TYPES, st.lists(TYPES, min_size=1, max_size=3, unique=True)),
                "enum": st.lists(VALUES, min_size=1, max_size=3),
                "const": VALUES,
                "properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
                "required": st.lists(st.sampled_from("ab"), max_size=2, unique=True),
                "additionalProperties": inner,
                "items": inner,
                "prefixItems": some,
                "minItems": SMALL, "maxItems": SMALL, "minLength": SMALL, "maxLength": SMALL,
                "minProperties": SMALL, "maxProperties": SMALL,
                "minimum": st.integers(-3, 3), "maximum": st.integers(-3, 3),
                "exclusiveMinimum": st.integers(-3, 3), "exclusiveMaximum": st.integers(-3, 3),
                "multipleOf": st.sampled_from([1, 2, 0.5]),
                "anyOf": some,
                "allOf": some,
                "$ref": st.sampled_from(["#/$defs/x", "#/$defs/y"]),
            },
        ),
    )  # fmt: skip


ANY_SCHEMA: st.SearchStrategy[Any] = st.recursive(st.just({}), keywords, max_leaves=6)


@settings(
    deadline=None, max_examples=600, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(ANY_SCHEMA, ANY_SCHEMA, VALUES)
def test_it_agrees_with_jsonschema(schema: Any, other: Any, value: Any) -> None:
    # y stands within x's reach, but nothing leads back to itself in place, where jsonschema has no end.
    if "$ref" in json.dumps(other):
        other = {"type": ["string", "array"], "items": {"$ref": "#/$defs/y"}}
    schema = schema if isinstance(schema, dict) else {"allOf": [schema]}
    schema = schema | {"$defs": {"x": other, "y": {"type": "array", "items": {"$ref": "#/$defs/y"}}}}
    problems = Validator(json.dumps(schema)).problems(value)
    assert bool(problems) != jsonschema.Draft202012Validator(schema).is_valid(value), problems


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(SCHEMAS, st.integers(0, 2**32))
def test_answers_pass_and_are_no_shorter_than_they_can_be(schema: dict[str, Any], seed: int) -> None:
    grammar = compile_schema(schema)
    text = walk(grammar, seed)
    if text is not None:
        assert Validator(check_schema(schema)).read(text.decode()) == (json.loads(text), [])
        assert len(text) >= shortest(grammar, VOCABULARY) >= 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"a":1,"a":2}', "twice"),
        ('[{"a":{"b":1,"b":1}}]', "twice"),
        ("NaN", "NaN"),
        ("[-Infinity]", "Infinity"),
        ("1e999", "beyond a double"),
        ("1" * 400, "beyond a double"),
        ("1" * 5000, "beyond a double"),
        ('"\\ud800"', "surrogate"),
        ('{"\\udfff":1}', "surrogate"),
        ('"\ud800"', "surrogate"),
        ("{", "not JSON"),
        ("", "not JSON"),
        ("1 2", "not JSON"),
        ("[" * 100_000, "not JSON|too deep"),
    ],
)
def test_what_json_loads_would_let_through(text: str, named: str) -> None:
    _, problems = Validator("{}").read(text)
    assert len(problems) == 1
    assert any(part in problems[0] for part in named.split("|"))


def test_whole_pairs_are_no_problem() -> None:
    assert Validator("{}").read('"\\ud83d\\ude00 \U0001f600"') == ("\U0001f600 \U0001f600", [])


def test_places_and_counts() -> None:
    validator = Validator('{"properties":{"a":{"items":{"type":"null"}}}}')
    assert validator.problems({"a": [None, 3]}) == ["$.a[1]: not null"]
    assert len(validator.problems({"a": [3] * 1000})) == MAX_PROBLEMS


def test_what_would_take_for_ever_elsewhere() -> None:
    """2^60 ways through the references, and a pattern that backtracks without end."""
    defs: dict[str, Any] = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
    schema = {"$defs": defs | {"d60": {"type": "null"}}, "$ref": "#/$defs/d0"}
    assert Validator(json.dumps(schema)).problems(None) == []
    assert Validator(json.dumps(schema)).problems(3) == ["$: none of the alternatives"]
    assert Validator('{"pattern":"^(a+)+$"}').problems("a" * 100 + "b") == []
    assert Validator('{"$ref":"#"}').problems(3) == []


def test_pointers() -> None:
    root = {"$defs": {"a/b": {"~": [{"const": 1}]}, "c d": True}}
    assert resolve(root, "#/$defs/a~1b/~0/0") == {"const": 1}
    assert resolve(root, "#/$defs/c%20d") is True
    for reference in ("#/$defs/x", "#/$defs/a~1b/~0/1", "#name", "#/$defs/a~1b/~0"):
        with pytest.raises(InputError, match="ref"):
            resolve(root, reference)


def test_the_shortest_answer() -> None:
    names = ("first_name", "last_name")
    people = {
        "type": "object",
        "properties": {name: {"type": ["string", "null"]} for name in names},
        "required": list(names),
        "additionalProperties": False,
    }
    assert shortest(compile_schema(people), VOCABULARY) == len('{"first_name":"","last_name":""}')
    many = {"type": "array", "items": people, "minItems": 100}
    assert (
        shortest(compile_schema(many), VOCABULARY) == 100 * (len('{"first_name":"","last_name":""}') + 1) + 1
    )
    assert shortest(compile_schema({"type": "string", "minLength": 50}), VOCABULARY) == 52
    assert shortest(choice_grammar(["yes", "no"]), VOCABULARY) == 2
    assert shortest(regex_grammar("abc[0-9]*"), VOCABULARY) == 3


def test_the_shortest_answer_by_the_tokens_there_are() -> None:
    """Spaces and words that can't stand there don't count, however long the tokens that hold them."""
    engine = Words(2000)
    engine._tokens[300] = b" " * 90
    engine._tokens[301] = b'{"name":'
    vocabulary = Vocabulary(engine)  # type: ignore[arg-type]
    properties = {"name": {"type": "null"}, "kind": {"enum": ["large"]}}
    schema = {
        "type": "object",
        "properties": properties,
        "required": ["name", "kind"],
        "additionalProperties": False,
    }
    least = shortest(compile_schema(schema), vocabulary)
    assert 3 <= least <= len('{"name":null,"kind":"large"}')
    text = {"type": "string", "minLength": 180}
    assert 2 <= shortest(compile_schema(text), vocabulary) <= 4


def test_no_room_for_an_answer() -> None:
    grammar = compile_schema({"type": "array", "items": {"type": "null"}, "minItems": 1000})
    check_room(grammar, VOCABULARY, 5001)
    with pytest.raises(InputError, match="(?s)more tokens than are left.*5000 left.*at least 5001"):
        check_room(grammar, VOCABULARY, 5000)
