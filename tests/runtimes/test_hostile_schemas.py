"""Schemas that mean harm, or make no sense: refused, or enforced whole; never a crash, a hang or free text."""

from __future__ import annotations

import faulthandler
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from edgekit.errors import InputError
from edgekit.runtimes.constraint import compile_schema
from edgekit.runtimes.shortest import shortest
from edgekit.runtimes.validity import Validator
from tests.runtimes.walks import VOCABULARY, walk

STRING = {"type": "string"}
NULL = {"type": "null"}


def nested(count: int, outer: str, inner: Any) -> Any:
    for _ in range(count):
        inner = {outer: inner}
    return inner


def chain(count: int, link: Any, end: Any) -> dict[str, Any]:
    """``$defs`` of which each leads to the next."""
    defs = {f"d{at}": link(f"#/$defs/d{at + 1}") for at in range(count)}
    return {"$defs": defs | {f"d{count}": end}, "$ref": "#/$defs/d0"}


def itself() -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema
    return schema


REFUSED: dict[str, Any] = {
    "too deep": nested(100, "items", STRING),
    "holds itself": itself(),
    "chain of references": chain(1500, lambda ref: {"$ref": ref}, NULL),
    "chain of items": chain(900, lambda ref: {"items": {"$ref": ref}}, NULL),
    "chain of allOf": chain(900, lambda ref: {"allOf": [{"$ref": ref}]}, NULL),
    "huge enum": {"enum": list(range(9000))},
    "long enum": {"enum": ["x" * 70_000]},
    "huge enums": {"prefixItems": [{"enum": [f"{at}{n}" for n in range(900)]} for at in range(6)], "type": "array"},
    "many properties": {"type": "object", "properties": {f"p{n}": NULL for n in range(1500)}},
    "many required": {"type": "object", "required": [f"p{n}" for n in range(5000)]},
    "29 patterns meet": {"type": "string", "allOf": [{"pattern": f"a{{{n},}}.*b.*c{{{n}}}"} for n in range(1, 30)]},
    "29 patterns meet below": {
        "allOf": [{"type": "object", "properties": {"a": {"pattern": f"a{{{n},}}.*b.*c{{{n}}}"}}} for n in range(1, 30)]
    },
    "12 letters meet": {"type": "string", "allOf": [{"pattern": chr(97 + n)} for n in range(12)]},
    "large multipleOf": {"type": "integer", "multipleOf": 99_999_989},
    "large common multipleOf": {"type": "integer", "allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]},
    "many multipleOf": {"type": "array", "prefixItems": [{"type": "integer", "multipleOf": 9000 + n} for n in range(99)]},
    "multipleOf 0": {"type": "integer", "multipleOf": 0},
    "multipleOf 1e-300": {"type": "number", "multipleOf": 1e-300},
    "anyOf in allOf": {
        "allOf": [
            {"anyOf": [{"type": "object", "properties": {f"a{n}": {"const": m}}} for m in range(2)]} for n in range(16)
        ]
    },
    "bomb of copies": chain(
        25, lambda ref: {"anyOf": [{"$ref": ref}, {"$ref": ref}], "properties": {"k" + ref[-2:]: NULL}}, {"type": "object"}
    ),
    "itself": {"$ref": "#"},
    "itself in allOf": {"allOf": [{"$ref": "#"}]},
    "itself required": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "itself in every array": {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    "contradictory types": {"allOf": [STRING, {"type": "integer"}]},
    "contradictory enum": {"type": "string", "enum": [1, 2]},
    "contradictory patterns": {"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "^b"}]},
    "contradictory required": {"type": "object", "properties": {"a": False}, "required": ["a"]},
    "contradictory limits": {"type": "integer", "minimum": 5, "maximum": 4},
    "contradictory items": {"type": "array", "minItems": 3, "maxItems": 2},
    "contradictory lengths": {"type": "string", "minLength": 3, "maxLength": 2},
    "empty class": {"type": "string", "pattern": "^[^\\s\\S]$"},
    "empty enum": {"enum": []},
    "false within": {"type": "array", "items": False, "minItems": 1},
    "NaN": {"const": float("nan")},
    "infinite": {"type": "number", "maximum": float("inf")},
    "1e308": {"type": "number", "maximum": 1e308},
    "huge integer": {"type": "integer", "maximum": 10**400},
    "surrogate": {"const": "\ud800"},
    "surrogate key": {"type": "object", "properties": {"\udfff": NULL}},
    "bytes": {"const": b"x"},
    "number as key": {1: 2},
    "300 copies of much": {
        "$defs": {"b": {"type": "object", "properties": {f"p{n}": {"pattern": f"^{n % 20}"} for n in range(900)}}},
        "type": "array",
        "prefixItems": [{"$ref": "#/$defs/b", "required": [f"p{n}"]} for n in range(300)],
    },
    "negative count": {"type": "array", "minItems": -1},
    "fraction of a count": {"type": "string", "maxLength": 2.5},
    "count as text": {"type": "string", "maxLength": "2"},
    "unknown keyword": {"type": "string", "maxlength": 3},
    "wrong type": {"type": 3},
    "unknown type": {"type": "any"},
    "no types": {"type": []},
    "required is text": {"type": "object", "required": "abc"},
    "required of numbers": {"type": "object", "required": [1]},
    "reference outside": {"$ref": "http://127.0.0.1:9/x.json"},
    "reference to a file": {"$ref": "file:///etc/passwd"},
    "reference to nothing": {"$ref": "#/$defs/x"},
    "reference to a number": {"$ref": "#/maximum", "maximum": 3},
    "anchor": {"$ref": "#x", "$defs": {"x": {"$anchor": "x"}}},
    "anchors twice": {"$defs": {"x": {"$anchor": "x"}, "y": {"$anchor": "x"}}, "type": "null"},
    "dynamic": {"$dynamicRef": "#x"},
    "remote dialect": {"$schema": "https://example.com/dialect", "type": "null"},
    "base within": {"type": "object", "properties": {"a": {"$id": "http://x/y", "$ref": "#/$defs/b"}}, "$defs": {"b": NULL}},
    "old draft, siblings": {
        "$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/a", "maxLength": 1, "definitions": {"a": STRING},
    },
    "look-ahead": {"type": "string", "pattern": "(?=a)b"},
    "look-behind": {"type": "string", "pattern": "(?<!a)b"},
    "backreference": {"type": "string", "pattern": "(a)\\1"},
    "parentheses": {"type": "string", "pattern": "(" * 20_000 + ")" * 20_000},
    "options in a row": {"type": "string", "pattern": "^" + "a?" * 2000 + "a" * 2000 + "$"},
    "repeated thrice": {"type": "string", "pattern": "^((a{100}){100}){100}$"},
    "not": {"not": STRING},
    "if": {"if": STRING, "then": {"maxLength": 3}},
    "unevaluated": {"type": "object", "unevaluatedProperties": False},
    "dependent": {"type": "object", "dependentSchemas": {"a": NULL}},
    "contains": {"type": "array", "contains": NULL},
    "unique": {"type": "array", "uniqueItems": True},
    "names": {"type": "object", "propertyNames": {"pattern": "^a"}},
    "own options": {"type": "string", "x-guidance": {"lenient": True}},
    "key of 60 kB": {"type": "object", "properties": {"k" * 60_000: NULL}, "additionalProperties": False},
    "pattern properties meet": {"type": "object", "patternProperties": {"^a": NULL, "b$": STRING}},
}  # fmt: skip

ACCEPTED: dict[str, Any] = {
    "evil pattern": {"type": "string", "pattern": "^(a+)+$"},
    "evil pattern 2": {"type": "string", "pattern": "^(a|aa)+$"},
    "evil pattern 3": {"type": "string", "pattern": "^([a-z]+)*[0-9]$"},
    "allOf bomb": chain(20, lambda ref: {"allOf": [{"$ref": ref}, {"$ref": ref}]}, STRING),
    "anyOf bomb": chain(20, lambda ref: {"anyOf": [{"$ref": ref}, {"$ref": ref}]}, STRING),
    "doubling object": chain(
        12,
        lambda ref: {
            "type": "object",
            "properties": {"a": {"$ref": ref}, "b": {"$ref": ref}},
            "required": ["a"],
            "additionalProperties": False,
        },
        NULL,
    ),
    "recursive": {"anyOf": [{"type": "array", "items": {"$ref": "#"}, "maxItems": 2}, NULL]},
    "large counts": {"type": "array", "items": NULL, "maxItems": 10**9},
    "large lengths": {"type": "string", "maxLength": 10**9},
    "large enum": {"enum": [f"value{n}" for n in range(3000)]},
    "enum of control tokens": {"enum": ["<|eos|>", "<|end|>", "<|eot_id|>", "</s>"]},
    "key of 6 kB": {
        "type": "object", "properties": {"k" * 6000: NULL}, "required": ["k" * 6000], "additionalProperties": False,
    },
    "keys like keywords": {
        "type": "object",
        "properties": {"$ref": {"const": "#"}, "not": NULL, "": NULL, "\\\"\n": NULL},
        "required": ["$ref", "not", "", "\\\"\n"],
        "additionalProperties": False,
    },
    "multiples": {"type": "integer", "multipleOf": 37, "minimum": 0, "maximum": 9999},
    "tenths": {"type": "number", "multipleOf": 0.1, "minimum": 0, "maximum": 10},
    "pattern and length": {"type": "string", "pattern": "^[a-z]{2,}$", "maxLength": 4},
    "two patterns": {"type": "string", "allOf": [{"pattern": "a"}, {"pattern": "^[abc]{1,5}$"}]},
    "many alternatives": {"anyOf": [{"type": "string", "pattern": f"^{n}[a-c]{{3}}$"} for n in range(500)]},
    "old draft": {
        "$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/a", "definitions": {"a": NULL},
    },
    "pattern properties": {"type": "object", "patternProperties": {"^a": NULL}, "additionalProperties": False},
    "closed tuple": {"type": "array", "prefixItems": [NULL, STRING], "items": False, "minItems": 2},
}  # fmt: skip

SAME: dict[str, Any] = {"allOf bomb": STRING, "anyOf bomb": STRING}
"""What means the same: the oracle itself would follow every reference 2^20 times."""


@pytest.fixture(autouse=True)
def hang_guard() -> Iterator[None]:
    """Not a limit on time: without it a hang inside the mask engine could not be interrupted."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    with pytest.raises(InputError, match="output schema") as error:
        compile_schema(REFUSED[name])
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_and_enforced(name: str) -> None:
    schema = ACCEPTED[name]
    grammar = compile_schema(schema)
    assert grammar.schema is not None
    oracle, own = jsonschema.Draft202012Validator(SAME.get(name, schema)), Validator(grammar.schema)
    least = shortest(grammar, VOCABULARY)
    texts = [text for seed in range(8) if (text := walk(grammar, seed, 7000)) is not None]
    assert texts
    for text in texts:
        value = json.loads(text)
        oracle.validate(value)
        assert own.read(text.decode()) == (value, [])
        assert len(text) >= least


def test_there_are_enough_of_them() -> None:
    assert len(REFUSED) + len(ACCEPTED) >= 50
    spoken = {re.sub(r"\W", "", name) for name in [*REFUSED, *ACCEPTED]}
    assert len(spoken) == len(REFUSED) + len(ACCEPTED)
