"""Classes as schemas: what they say in JSON Schema, checked by jsonschema, and the way back from data."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NewType, TypedDict

import jsonschema
import pytest

from edgekit.errors import InputError
from edgekit.runtimes.constraint import compile_schema
from edgekit.schemas import as_json_schema, restore

City = NewType("City", str)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Item:
    name: str
    price: float | None = None


class Place(TypedDict, total=False):
    city: City
    floor: int


@dataclass
class Order:
    number: Annotated[int, {"minimum": 0}]
    items: list[Item]
    colour: Colour | None
    kind: Literal["new", 3] | None
    tags: set[str]
    size: tuple[int, bool]
    notes: Annotated[dict[str, str], "anything else"]
    where: Place
    parent: Order | None = None
    computed: int = field(default=7, init=False)


@dataclass
class Checked:
    n: int

    def __post_init__(self) -> None:
        if self.n > 3:
            raise ValueError("more than three")


ORDER: dict[str, Any] = {
    "number": 3,
    "items": [{"name": "cup", "price": 2}, {"name": "", "price": None}],
    "colour": "blue",
    "kind": 3,
    "tags": ["a", "b", "a"],
    "size": [4, True],
    "notes": {"x": "y"},
    "where": {"city": "Ulm", "floor": 2},
    "parent": None,
}


def record(name: str, **fields: Any) -> Any:
    """A dataclass made here and now."""
    return dataclass(type(name, (), {"__annotations__": fields}))


def valid(schema: dict[str, Any], data: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(data))


def test_a_dataclass() -> None:
    schema = as_json_schema(Order)
    jsonschema.Draft202012Validator.check_schema(schema)
    compile_schema(schema)
    assert schema["required"] == list(ORDER) == list(schema["properties"])
    assert schema["properties"]["notes"]["description"] == "anything else"
    assert valid(schema, ORDER)
    assert valid(schema, ORDER | {"parent": ORDER})
    wrong: dict[str, Any] = {
        "number": -1,
        "items": [{"name": "cup"}],
        "colour": "RED",
        "kind": "old",
        "tags": "a",
        "size": [4],
        "notes": {"x": 1},
        "where": {"city": "Ulm"},
        "parent": {},
    }
    assert set(wrong) == set(ORDER)
    for name, value in wrong.items():
        assert not valid(schema, ORDER | {name: value}), name
        assert not valid(schema, {key: value for key, value in ORDER.items() if key != name}), name
    assert not valid(schema, ORDER | {"computed": 7})


def test_back_to_a_dataclass() -> None:
    order = restore(Order, ORDER | {"parent": ORDER})
    assert order.items == [Item("cup", 2.0), Item("", None)]
    assert type(order.items[0].price) is float
    assert order.colour is Colour.BLUE and order.kind == 3
    assert order.tags == {"a", "b"} and order.size == (4, True)
    assert order.where == {"city": "Ulm", "floor": 2}
    assert type(order.parent) is Order and order.parent.parent is None and order.computed == 7
    assert restore({"type": "integer"}, 3) == 3


@pytest.mark.parametrize(
    "change",
    [{"number": True}, {"size": [1, 1]}, {"kind": True}, {"items": [{}]}, {"more": 1}, {"colour": 1}],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="doesn't fit"):
        restore(Order, ORDER | change)


def test_a_class_that_checks_itself() -> None:
    assert restore(Checked, {"n": 3}) == Checked(3)
    with pytest.raises(InputError, match="more than three"):
        restore(Checked, {"n": 4})


def test_unions_take_the_own_type_first() -> None:
    @dataclass
    class Number:
        n: float | int | str | bool

    for value in (1, 1.5, "1", True):
        assert type(restore(Number, {"n": value}).n) is type(value)


def test_two_classes_of_one_name() -> None:
    first, second = record("Inner", value=int), record("Inner", value=str)
    outer = record("Outer", a=first, b=second)
    schema = as_json_schema(outer)
    assert valid(schema, {"a": {"value": 1}, "b": {"value": "x"}})
    assert not valid(schema, {"a": {"value": "x"}, "b": {"value": "x"}})


def test_a_pydantic_model() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Inner(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        required: int = 3
        default: Literal["a", "b"] | None = None

    model = pydantic.create_model("Person", name=(str, ...), age=(int | None, None), inner=(list[Inner], []))
    schema = as_json_schema(model)
    compile_schema(schema)
    data = {"name": "Ann", "age": None, "inner": [{"required": 1, "default": "a"}]}
    assert valid(schema, data)
    assert not valid(schema, {"name": "Ann"})
    assert not valid(schema, data | {"inner": [{"required": 1}]})
    assert not valid(schema, data | {"other": 1})
    person = restore(model, data)
    assert type(person) is model and type(person.inner[0]) is Inner
    with pytest.raises(InputError, match="doesn't fit the model"):
        restore(model, {"name": 3})


def test_a_mapping_is_taken_as_it_is() -> None:
    schema = {"type": "object", "properties": {"a": {}}}
    assert as_json_schema(schema) == schema


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (object, "object"),
        (Any, "Any"),
        (list, "list"),
        (dict[int, str], "dict"),
        (bytes, "bytes"),
        (complex, "complex"),
        (Literal[b"x"], "x"),
        (Annotated[int, 3], "3"),
        (list[bytes], "bytes"),
        ("Missing", "Missing"),
    ],
)
def test_what_json_schema_cannot_say_is_named(kind: Any, named: str) -> None:
    with pytest.raises(InputError, match=f"(?s)(Record.thing|Record).*{named}"):
        as_json_schema(record("Record", thing=kind))


@pytest.mark.parametrize("schema", ['{"type": "string"}', b"{}", 3, None, int, Item("a"), [Item]])
def test_what_is_no_schema(schema: Any) -> None:
    with pytest.raises(InputError, match="schema"):
        as_json_schema(schema)
