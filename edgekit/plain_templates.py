"""Chat templates whose messages' contents only ever become output: what is around the contents is rendered once.

A template is a program, and what it does with a content can be anything. Its syntax tree is looked at: a content may be
put out, added to other text, kept in a variable, and stripped where it is read; nothing else. Then the contents decide nothing, and the
prompt of any conversation of the same roles is the same pieces around other contents.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jinja2 import nodes

_TESTS: Final = frozenset(
    {"defined", "undefined", "none", "string", "mapping", "number", "boolean", "callable"}
)
"""Tests that say the same of every text."""
_LOOP: Final = frozenset(
    {"index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0"}
)
_PLAIN, _CONTENT, _MESSAGES = 0, 1, 2
"""What an expression's value is made of: nothing of the messages' contents; contents; or whole messages."""


class _Unknown(Exception):
    """The template does something that isn't understood."""


@lru_cache(maxsize=16)
def strips(source: str) -> bool | None:
    """Whether the template strips contents of white space; None for a template that isn't plain."""
    from jinja2 import Environment, TemplateError

    try:
        return _Reader(Environment().parse(source)).strips()
    except (_Unknown, TemplateError, RecursionError):
        return None


class _Reader:
    """Follows contents and messages through a syntax tree; variables are what any assignment makes of them."""

    def __init__(self, tree: nodes.Template) -> None:
        self._tree = tree
        self._kinds: dict[str, int] = {"messages": _MESSAGES}
        self._stripped: set[bool] = set()

    def strips(self) -> bool:
        """Read until no variable changes; ``_Unknown`` for what isn't plain, or strips here and not there."""
        while True:
            before = dict(self._kinds)
            self._stripped.clear()
            for node in self._tree.body:
                self._statement(node)
            if before == self._kinds:
                break
        if len(self._stripped) > 1:
            raise _Unknown
        return self._stripped == {True}

    def _statement(self, node: nodes.Node) -> None:
        from jinja2 import nodes

        if isinstance(node, nodes.Output):
            for one in node.nodes:
                self._without_messages(one)
        elif isinstance(node, nodes.Assign):
            self._assign(node)
        elif isinstance(node, nodes.If):
            self._decides(node.test)
            self._all([*node.body, *node.elif_, *node.else_])
        elif isinstance(node, nodes.For):
            self._for(node)
        elif not isinstance(node, nodes.TemplateData):
            raise _Unknown

    def _all(self, body: list[nodes.Node]) -> None:
        for node in body:
            self._statement(node)

    def _assign(self, node: nodes.Assign) -> None:
        from jinja2 import nodes

        kind = self._kind(node.node)
        if isinstance(node.target, nodes.Name):
            self._note(node.target.name, kind)
        elif not (isinstance(node.target, nodes.NSRef) and kind == _PLAIN):
            raise _Unknown

    def _for(self, node: nodes.For) -> None:
        from jinja2 import nodes

        kind = self._kind(node.iter)
        if kind == _CONTENT or node.recursive or not isinstance(node.target, nodes.Name):
            raise _Unknown
        self._note(node.target.name, kind)
        if node.test is not None:
            self._decides(node.test)
        self._all([*node.body, *node.else_])

    def _note(self, name: str, kind: int) -> None:
        known = self._kinds.get(name, _PLAIN)
        if name == "loop" or (known != kind and _MESSAGES in (known, kind) and name in self._kinds):
            raise _Unknown  # messages here, something else there
        self._kinds[name] = max(known, kind)

    def _decides(self, node: nodes.Node) -> None:
        """What a condition is made of: never contents."""
        if self._kind(node) != _PLAIN:
            raise _Unknown

    def _without_messages(self, node: nodes.Node) -> None:
        if self._kind(node) == _MESSAGES:
            raise _Unknown

    def _kind(self, node: nodes.Node) -> int:
        from jinja2 import nodes

        if isinstance(node, nodes.Const | nodes.TemplateData):
            return _PLAIN
        if isinstance(node, nodes.Name):
            if node.name in {"strftime_now", "loop", "self", "varargs", "kwargs", "caller"}:
                raise _Unknown  # a clock, or what holds more than it shows
            return self._kinds.get(node.name, _PLAIN)
        if isinstance(node, nodes.Getitem | nodes.Getattr):
            return self._part(node)
        if isinstance(node, nodes.Add | nodes.Concat):
            kinds = [self._kind(one) for one in _children(node)]
            if _MESSAGES in kinds:
                raise _Unknown
            return max(kinds)
        if isinstance(node, nodes.Filter | nodes.Call):
            return self._applied(node)
        if isinstance(node, nodes.Test):
            if self._kind(node.node) != _PLAIN and (node.name not in _TESTS or node.args):
                raise _Unknown
            return self._plain_children(node.args)
        if isinstance(node, nodes.Compare):
            return self._compared(node)
        if isinstance(node, nodes.CondExpr):
            self._decides(node.test)
            kinds = [self._kind(one) for one in (node.expr1, node.expr2) if one is not None]
            if len(set(kinds)) > 1 and _MESSAGES in kinds:
                raise _Unknown
            return max(kinds)
        if isinstance(node, nodes.And | nodes.Or | nodes.Not | nodes.Neg | nodes.Sub | nodes.Mod | nodes.List | nodes.Tuple | nodes.Slice):  # fmt: skip
            return self._plain_children(list(_children(node)))
        raise _Unknown

    def _plain_children(self, children: list[nodes.Expr]) -> int:
        for one in children:
            self._decides(one)
        return _PLAIN

    def _part(self, node: nodes.Getitem | nodes.Getattr) -> int:
        from jinja2 import nodes

        if isinstance(node.node, nodes.Name) and node.node.name == "loop":
            if isinstance(node, nodes.Getattr) and node.attr in _LOOP:
                return _PLAIN
            raise _Unknown
        kind = self._kind(node.node)
        if kind == _CONTENT:
            raise _Unknown
        if isinstance(node, nodes.Getattr):
            key: object = node.attr
        elif isinstance(node.arg, nodes.Const):
            key = node.arg.value
        else:
            self._plain_children([node.arg])
            key = node.arg
        if kind == _PLAIN:
            return _PLAIN
        if isinstance(key, str):
            if key == "content":
                self._stripped.add(False)
                return _CONTENT
            if hasattr(dict, key) or hasattr(list, key):
                raise _Unknown  # a method
            return _PLAIN
        if isinstance(key, int | nodes.Slice | nodes.Neg):
            return _MESSAGES
        raise _Unknown

    def _applied(self, node: nodes.Filter | nodes.Call) -> int:
        """A filter, or a call: of contents only stripping, where they are read; of messages only their number."""
        from jinja2 import nodes

        inner: nodes.Node | None
        if isinstance(node, nodes.Filter):
            inner, name = node.node, node.name
        elif isinstance(node.node, nodes.Getattr):
            inner, name = node.node.node, {"strip": "trim"}.get(node.node.attr, "")
        else:
            inner, name = node.node, ""
        if inner is None or node.dyn_args is not None or node.dyn_kwargs is not None:
            raise _Unknown
        self._plain_children([*node.args, *(pair.value for pair in node.kwargs)])
        before = set(self._stripped)
        kind = self._kind(inner)
        bare = not (node.args or node.kwargs)
        if kind == _CONTENT and name == "trim" and bare and isinstance(inner, nodes.Getitem | nodes.Getattr):
            self._stripped = before | {True}
            return _CONTENT
        if kind == _MESSAGES and isinstance(node, nodes.Filter) and name in {"length", "count"} and bare:
            return _PLAIN
        if kind != _PLAIN:
            raise _Unknown
        return _PLAIN

    def _compared(self, node: nodes.Compare) -> int:
        from jinja2 import nodes

        first, named = node.ops[0], isinstance(node.expr, nodes.Const) and isinstance(node.expr.value, str)
        if (
            len(node.ops) == 1
            and first.op in {"in", "notin"}
            and named
            and self._kind(first.expr) == _MESSAGES
        ):
            return _PLAIN  # a key, or a text among messages, which are none
        return self._plain_children([node.expr, *(one.expr for one in node.ops)])


def _children(node: nodes.Node) -> Iterator[nodes.Expr]:
    from jinja2 import nodes

    for child in node.iter_child_nodes():
        assert isinstance(child, nodes.Expr)
        yield child
