"""Jinja for templates from strangers: few names, no attribute but the plain ones, and a price on everything made.

Jinja's own sandbox stops a template from reaching Python; it doesn't stop ``'a' * 10**9``. Here everything that
can make a text, a list or a big number passes ``TemplateEnvironment.new``, which holds three bounds: on each value, on
what a list weighs with all that it holds (so printing, comparing and hashing it are bounded too), and on the sum of
all that one render makes.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Final, NoReturn

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.tests import TESTS

from edgekit.sandbox_parts import (
    TemplateNamespace,
    bounded,
    check_indent,
    check_join,
    check_replace,
    check_replace_filter,
    plain_dict,
    raise_exception,
    tojson,
)

MAX_WEIGHT: Final = 4 << 20
"""Characters, and 8 for each item, of one list or mapping with all that it holds."""
MAX_MADE: Final = 128 << 20
"""Bytes, about, that one render may make in all."""
MAX_BITS: Final = 4096

_FILTER_NAMES: Final = (
    "abs capitalize count d default dictsort e escape first float indent int items join last length list lower map "
    "max min reject rejectattr replace reverse round safe select selectattr sort string sum title trim truncate "
    "unique upper"
)
_TEXT_METHODS: Final = (
    "capitalize casefold count endswith find format index isalnum isalpha isascii isdecimal isdigit islower "
    "isnumeric isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex "
    "rpartition rsplit rstrip split splitlines startswith strip swapcase title upper"
)
_METHODS: Final[tuple[tuple[type, frozenset[str]], ...]] = (
    (str, frozenset(_TEXT_METHODS.split(" "))),
    (dict, frozenset({"get", "items", "keys", "values"})),
    (list, frozenset({"count", "index"})),
    (tuple, frozenset({"count", "index"})),
    (int, frozenset()),
    (float, frozenset()),
    (bytes, frozenset()),
)
_WIDE: Final = re.compile(r"\d{4}|\*|:[^{}]*\{")
"""In a format string: a width of four digits, or one taken from an argument."""


class _Made(threading.local):
    """What the render on this thread made so far; ``weights`` keeps what it weighed alive, so that ids stay true."""

    def __init__(self) -> None:
        self.left = 0
        self.weights: dict[int, tuple[Any, int]] = {}


class _Generator(CodeGenerator):
    """Routes what jinja compiles to bare Python, and so past the sandbox, through the environment."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self._call("join_texts", node.nodes, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._literal(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._literal(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._literal(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        none = nodes.Const(None)
        part = node.arg
        self._call("cut", [node.node, part.start or none, part.stop or none, part.step or none], frame)

    def visit_Name(self, node: nodes.Name, frame: Frame) -> None:
        if node.name in {"varargs", "kwargs"}:
            raise SecurityError(f"chat templates can't use {node.name!r}")
        super().visit_Name(node, frame)

    def _literal(self, visit: Callable[..., None], node: nodes.Node, frame: Frame) -> None:
        self.write("environment.new(")
        visit(node, frame)
        self.write(")")

    def _call(self, method: str, arguments: Iterable[nodes.Node], frame: Frame) -> None:
        self.write(f"environment.{method}(")
        for argument in arguments:
            self.visit(argument, frame)
            self.write(", ")
        self.write(")")


class Generation(Extension):
    """``{% generation %}`` marks the assistant's part for training; here it is just its content."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Set up as transformers sets up its chat templates, with bounds; safe to share between threads."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
        self._made = _Made()
        self.globals = {
            "range": safe_range,
            "dict": plain_dict,
            "namespace": TemplateNamespace,
            "raise_exception": raise_exception,
        }
        checks: dict[str, Callable[..., tuple[Any, ...]]] = {
            "join": check_join,
            "replace": check_replace_filter,
            "indent": check_indent,
        }
        filters = {name: FILTERS[name] for name in _FILTER_NAMES.split(" ")} | {"tojson": tojson}
        self.filters = {name: self._guard(filter_, checks.get(name)) for name, filter_ in filters.items()}
        self.tests = {name: test for name, test in TESTS.items() if name not in {"filter", "test"}}

    def start(self, *inputs: Any) -> None:
        """Begin a render on this thread; its inputs are weighed but cost nothing."""
        self._made.left = MAX_MADE
        self._made.weights = {}
        for value in inputs:
            self.weigh(value)

    def new(self, value: Any) -> Any:
        """Price a value that the template made; raises ``SecurityError`` when it costs too much."""
        weight = self.weigh(value)
        cost = weight if isinstance(value, str) else 64 * len(value) if _is_container(value) else 8
        self._made.left -= cost
        if self._made.left < 0:
            raise SecurityError("the template makes too much text")
        return value

    def weigh(self, value: Any) -> int:
        """Characters of a text; of a container, with all that it holds. Raises ``SecurityError`` past the bounds."""
        if isinstance(value, str):
            return bounded(len(value))
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise SecurityError("a number is too big")
        if not _is_container(value):
            return 8
        known = self._made.weights.get(id(value))
        if known is not None:
            return known[1]
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        weight = 8
        for item in items:
            weight += 8 + self.weigh(item)
            if weight > MAX_WEIGHT:
                raise SecurityError("a list or mapping is too big")
        self._made.weights[id(value)] = (value, weight)
        return weight

    def concat(self, parts: Iterable[str]) -> str:
        """What jinja joins the output of macros and blocks with."""
        parts = list(parts)
        bounded(sum(map(len, parts)))
        text: str = self.new("".join(parts))
        return text

    def join_texts(self, *parts: Any) -> Any:
        """The ``~`` operator."""
        bounded(sum(map(self.weigh, parts)))
        return self.new("".join(map(str, parts)))

    def cut(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """A slice."""
        return self.new(value[start:stop:step])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operators that can make something big out of something small."""
        if operator == "%" and isinstance(left, str):
            self._check_format(left, right)
        elif operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, str | list | tuple) and isinstance(times, int):
                    bounded(len(value) * max(times, 0) * (1 if isinstance(value, str) else 8))
        elif operator == "**" and _is_int(left) and _is_int(right) and left.bit_length() * right > MAX_BITS:
            raise SecurityError("a number is too big")
        return self.new(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: B902
        """Every call of a template; the text methods whose result can outgrow their arguments are checked first."""
        text = getattr(__obj, "__self__", None)
        if isinstance(text, str) and __obj.__name__ == "replace" and len(args) >= 2:
            check_replace(text, str(args[0]), str(args[1]))
        elif isinstance(text, str) and __obj.__name__ == "join" and args:
            items = list(args[0])
            bounded(__self.weigh(items) + len(text) * len(items))
            args = (items,)
        return __self.new(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format``, with widths and the number of fields bounded; ``format_map`` is not for templates."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None or value.__name__ != "format":
            return None

        def checked(*args: Any, **kwargs: Any) -> str:
            self._check_format(value.__self__, [*args, *kwargs.values()])
            return wrapped(*args, **kwargs)

        return checked

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Plain methods of plain values; of jinja's own objects what its sandbox allows."""
        if not super().is_safe_attribute(obj, attr, value):
            return False
        return next((attr in names for kind, names in _METHODS if isinstance(obj, kind)), True)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """An error at once; jinja waits until the value is used, and prints it as nothing."""
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe")

    def _check_format(self, text: str, arguments: Any) -> None:
        if _WIDE.search(text):
            raise SecurityError("a format asks for too wide a field")
        fields = text.count("%") + text.count("{")
        bounded(len(text) + fields * (999 + self.weigh(arguments)))

    def _guard(self, function: Callable[..., Any], before: Callable[..., Any] | None) -> Callable[..., Any]:
        """A filter whose arguments are checked by ``before`` and whose result is priced."""

        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if before is not None:
                args = before(self.weigh, *args, **kwargs)
            return self.new(function(*args, **kwargs))

        return guarded


def _is_int(value: Any) -> bool:
    return isinstance(value, int)


def _is_container(value: Any) -> bool:
    return isinstance(value, list | tuple | dict)
