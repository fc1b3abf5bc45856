"""JSON under a schema: checked by jsonschema, and closed wherever a schema can't be enforced."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.runtimes.constraint import Matcher, Vocabulary, compile_schema
from edgekit.runtimes.fake import FakeEngine
from edgekit.runtimes.grammars import LIMITS
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions
from edgekit.runtimes.request import Finish, Request
from edgekit.runtimes.sampling import Sampling
from tests.runtimes.serving import answer as whole
from tests.runtimes.serving import serving
from tests.runtimes.walks import VOCABULARY, walk

CONSTANTS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.builds(
            lambda whole, places: whole / 10**places, st.integers(-(10**15), 10**15), st.integers(0, 22)
        ),
        st.text(max_size=4),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=3,
)
NAMES = st.text('abcü "\\', min_size=1, max_size=4)
LEAVES = st.one_of(
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 5)),
    st.builds(
        lambda a, n: {"type": "integer", "minimum": a, "maximum": a + n},
        st.integers(-50, 50),
        st.integers(0, 99),
    ),
    st.builds(lambda a: {"type": "number", "minimum": a, "maximum": a + 1.5}, st.integers(-9, 9)),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.just({"type": ["string", "null"], "maxLength": 3}),
    st.just({"type": "string", "pattern": "^[a-c]{1,3}$"}),
    st.just({"type": "string", "format": "date"}),
    st.builds(lambda v: {"const": v}, CONSTANTS),
    st.builds(lambda v: {"enum": v}, st.lists(st.text(max_size=4), min_size=1, max_size=3, unique=True)),
)


def deeper(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def an_object(properties: dict[str, Any], required: bool, closed: bool) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if required:
            schema["required"] = list(properties)
        return (
            schema | {"additionalProperties": False}
            if closed or not required
            else schema
            | {
                "additionalProperties": {"type": "boolean"},
                "maxProperties": len(properties),
            }
        )

    return st.one_of(
        st.builds(an_object, st.dictionaries(NAMES, inner, max_size=3), st.booleans(), st.booleans()),
        st.builds(lambda s, n: {"type": "array", "items": s, "maxItems": n}, inner, st.integers(0, 3)),
        st.builds(lambda a, b: {"type": "array", "prefixItems": [a, b], "items": False}, inner, inner),
        st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner),
    )


SCHEMAS = st.recursive(LEAVES, deeper, max_leaves=8)


def answer(schema: dict[str, Any], seed: int = 0, temperature: float = 3.0) -> tuple[str, Finish]:
    engine = FakeEngine("no JSON at all")
    sampling = Sampling(temperature=temperature, seed=seed)
    request = Request(max_tokens=3000, sampling=sampling, grammar=compile_schema(schema))
    with serving(engine) as scheduler:
        return whole(scheduler, [65], request)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(SCHEMAS, st.integers(0, 2**32))
def test_whatever_the_schema_the_answer_matches_it(schema: dict[str, Any], seed: int) -> None:
    text, finish = answer(schema, seed)
    assert finish.reason == "schema"
    value = json.loads(text)
    jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())
    outside_strings = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    assert not re.search(r"\s", outside_strings)


def test_keys_come_in_the_order_of_the_schema_not_of_required() -> None:
    schema = {
        "type": "object",
        "properties": {name: {"type": "integer", "maximum": 9, "minimum": 0} for name in ("z", "a", "m")},
        "required": ["a", "m", "z"],
        "additionalProperties": False,
    }
    assert list(json.loads(answer(schema)[0])) == ["z", "a", "m"]


def test_a_recursive_schema() -> None:
    schema = {
        "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}},
        "$ref": "#/$defs/node",
    }
    jsonschema.validate(json.loads(answer(schema, temperature=0.0)[0]), schema)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string", "maxlength": 4}, "maxlength"),
        ({"type": "object", "properties": {"a": {"typ": "string"}}}, "typ"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {}}, "contains"),
        ({"type": "object", "propertyNames": {"maxLength": 1}}, "propertyNames"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"type": "string", "contentEncoding": "base64"}, "contentEncoding"),
        ({"type": "string", "nullable": True}, "nullable"),
        ({"type": "string", "x-guidance": {"lenient": True}}, "x-guidance"),
        ({"type": "object", "properties": {"a": {}}, "minProperties": 1}, "minProperties|min/maxProperties"),
        ({"type": "number", "exclusiveMinimum": True}, "exclusiveMinimum"),
        ({"type": "array", "items": [{"type": "string"}]}, "items"),
        ({"type": "array", "items": 3}, "items"),
        ({"type": "string", "maxLength": -1}, "maxLength"),
        ({"type": "string", "format": "nope"}, "nope"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"type": "string", "pattern": r"(a)\1"}, "backreferences"),
        ({"type": "strin"}, "strin"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "minimum"),
        ({"const": 2**53 + 1}, "9007199254740993"),
        ({"const": 8087399990408271.0}, "8087399990408271"),
        ({"enum": [{"a": [-(2**60)]}]}, "number too big"),
        ({"const": 5.305090535613234e-91}, "too fine"),
        ({"const": 0.1 + 0.2}, "too fine"),
        ({"enum": []}, "anyOf is empty|enum"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"required": "a", "type": "object"}, "required"),
        ({"properties": [], "type": "object"}, "properties"),
        ({"$ref": "https://example.com/schema.json"}, "ref"),
        ({"$ref": "other.json#/a"}, "ref"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"type": "object", "properties": {"a": {"$ref": "file:///etc/passwd"}}}, "ref"),
        ({"$dynamicRef": "#a"}, "dynamicRef"),
    ],
)
def test_what_cannot_be_enforced_is_named(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"(?s)output schema.*({named})|({named}).*output schema") as error:
        compile_schema(schema)
    assert str(error.value)


@pytest.mark.parametrize("schema", [None, True, "{}", [], 3, {"enum": [object()]}, {"const": float("nan")}])
def test_what_is_no_schema(schema: Any) -> None:
    with pytest.raises(InputError, match="output schema"):
        compile_schema(schema)


def test_limits() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        deep = {"type": "array", "items": deep}
    compile_schema(deep)
    for _ in range(100_000):
        deep = {"items": deep}
    with pytest.raises(InputError, match="too deep"):
        compile_schema(deep)
    circular: dict[str, Any] = {}
    circular["items"] = circular
    with pytest.raises(InputError, match="too deep"):
        compile_schema(circular)
    with pytest.raises(InputError, match="too long"):
        compile_schema({"enum": ["x" * 70_000]})


def test_names_of_properties_are_not_keywords() -> None:
    schema = {
        "type": "object",
        "properties": {"$ref": {"const": 1}, "not": {"const": 2}, "x-guidance": {"const": 3}},
        "required": ["$ref", "not", "x-guidance"],
        "additionalProperties": False,
    }
    assert answer(schema)[0] == '{"$ref":1,"not":2,"x-guidance":3}'
    assert answer({"const": {"$ref": "https://example.com"}})[0] == '{"$ref":"https://example.com"}'


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(FakeEngine("x"))


def matcher(vocabulary: Vocabulary, schema: dict[str, Any]) -> Matcher:
    return vocabulary.matcher(compile_schema(schema))


def test_the_mask(vocabulary: Vocabulary) -> None:
    digits = matcher(vocabulary, {"type": "integer", "minimum": 10, "maximum": 29})
    logits = np.arange(vocabulary.size, dtype=np.float32)
    masked = digits.mask(logits)
    assert set(np.flatnonzero(np.isfinite(masked)).tolist()) == set(b"12")
    assert masked[ord("1")] == ord("1")
    assert logits.tolist() == list(range(vocabulary.size))
    digits.consume(b"2")
    assert not digits.accepting
    digits.consume(b"5")
    assert digits.accepting and digits.complete


def test_control_tokens_never_count_as_text(vocabulary: Vocabulary) -> None:
    engine = FakeEngine("x")
    text = matcher(vocabulary, {"type": "string"})
    text.consume(b'"')
    allowed = set(np.flatnonzero(np.isfinite(text.mask(np.zeros(vocabulary.size, np.float32)))).tolist())
    assert allowed.isdisjoint(engine.specials.values())
    assert ord("<") in allowed


def test_a_forbidden_token_is_an_error_and_stays_one(vocabulary: Vocabulary) -> None:
    null = matcher(vocabulary, {"type": "null"})
    with pytest.raises(InputError):
        null.consume(b"x")
    for use in (lambda: null.mask(np.zeros(vocabulary.size, np.float32)), null.forced, lambda: null.complete):
        with pytest.raises(InputError, match="could not be enforced"):
            use()


def test_matchers_of_one_grammar_do_not_meet() -> None:
    """They are copies that share a lexer: each must go its own way, and one's failure stays its own."""
    grammar = compile_schema({"type": "string", "pattern": "^(a[b-d]{2}|x.{1,8}z)*$"})
    alone = [walk(grammar, seed) for seed in range(20)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda seed: walk(grammar, seed), list(range(20)) * 5)) == alone * 5
    broken, sound = VOCABULARY.matcher(grammar), VOCABULARY.matcher(grammar)
    with pytest.raises(InputError):
        broken.consume(b"x")
    sound.consume(b'"abb"')
    assert sound.accepting
    assert walk(grammar, 0) == alone[0]


def test_what_copies_share_does_not_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer needs about 300 of the lexer's states; thousands of answers need no more of them each."""
    grammar = compile_schema({"type": "string", "pattern": "^(abc|[a-z]{3,40}x|[0-9]{5,30}q|.{1,60}z)$"})
    monkeypatch.setitem(LIMITS, "max_lexer_states", 600)
    monkeypatch.setattr("edgekit.runtimes.constraint.COPIES", 8)
    vocabulary = Vocabulary(FakeEngine("x"))
    monkeypatch.setattr("tests.runtimes.walks.VOCABULARY", vocabulary)
    for seed in range(400):
        walk(grammar, seed, 60)


def test_a_pattern_too_big_to_run_raises_rather_than_letting_go() -> None:
    with pytest.raises(InputError, match="can't be enforced") as error:
        compile_schema({"type": "string", "pattern": "^(a?){300}a{300}$"})
    assert len(str(error.value)) < 500
    # This one begins harmlessly, so it is found out on the way.
    with pytest.raises(InputError, match="could not be enforced") as error:
        answer({"type": "string", "pattern": "^[a-z]{20}(a?){300}a{300}$"})
    assert len(str(error.value)) < 500


def test_no_end_token_no_schema() -> None:
    engine = FakeEngine("x")
    engine.eos_ids = frozenset()
    with pytest.raises(InputError, match="no token that ends"):
        Vocabulary(engine)


def test_with_a_real_vocabulary(base_gguf: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "n": {"type": "integer", "maximum": 99}},
        "required": ["city", "n"],
        "additionalProperties": False,
    }
    engine = LlamaCppEngine(base_gguf, LlamaCppOptions(threads=1))
    grammar = compile_schema(schema)
    with serving(engine) as scheduler:
        for seed in range(5):
            request = Request(sampling=Sampling(temperature=2.0, seed=seed), grammar=grammar)
            text, finish = whole(scheduler, [0, 2, 3], request)
            assert finish.reason == "schema"
            jsonschema.validate(json.loads(text), schema)
            assert text == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
    engine.close()
