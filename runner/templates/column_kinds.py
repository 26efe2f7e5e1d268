"""Finds mistakes in expressions from the kinds of the columns: a text never equals a number or a
boolean, and is true by itself whatever it says.

A cell of a CSV file is text and never null, unless ``records.types`` declares otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from jinja2 import TemplateSyntaxError, nodes

from runner.formats.typed_cells import CellType, comma_decimal
from runner.templates.columns_read import column_of, parsed_expression
from runner.templates.sandbox import Environment

Kind = Literal["cell", "text", "bool", "number", "date", "datetime", "null"]
"""The kind of a column's values; ``cell`` is text from a CSV file."""
OF_TYPE: Mapping[CellType, Kind] = {
    "text": "text", "bool": "bool", "int": "number", "float": "number", "decimal": "number",
    "date": "date", "datetime": "datetime",
}  # fmt: skip
_TEXTS = ("cell", "text")
_TO_TEXT = frozenset({
    "lower", "upper", "trim", "replace", "title", "capitalize", "string", "truncate", "center",
    "indent", "e", "escape", "format", "striptags", "wordwrap", "join", "urlencode", "tojson",
})  # fmt: skip
_SAME_METHODS = frozenset({
    "lower", "upper", "strip", "lstrip", "rstrip", "title", "capitalize", "casefold", "replace",
})  # fmt: skip
_BOOL_METHODS = frozenset({
    "startswith", "endswith", "isdigit", "isalpha", "isnumeric", "isupper", "islower",
})  # fmt: skip
_TO_NUMBER = frozenset(["int", "float", "length", "count", "round", "abs", "wordcount"])
_NEVER_TEXT = frozenset(["true", "false", "boolean", "integer", "float", "number"])
_COMPARING = {"eq": "eq", "equalto": "eq", "==": "eq", "ne": "ne", "!=": "ne", "lt": "lt",
              "<": "lt", "lessthan": "lt", "gt": "gt", ">": "gt", "greaterthan": "gt", "ge": "gteq",
              ">=": "gteq", "le": "lteq", "<=": "lteq", "in": "in"}  # fmt: skip
_ORDER = ("lt", "lteq", "gt", "gteq")
_ARITHMETIC = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow)
_MAKES: tuple[tuple[type[nodes.Node] | tuple[type[nodes.Node], ...], Kind], ...] = (
    ((nodes.Compare, nodes.Not, nodes.Test), "bool"),
    (nodes.Concat, "text"),
    ((nodes.Neg, nodes.Pos), "number"),
)
_environment = Environment()


def kind_mistakes(
    text: str, where: str, kinds: Mapping[str, Kind], *, decides: bool = False
) -> list[str]:
    """The mistakes in a template or expression; ``decides``: only its truth value matters."""
    try:
        parsed = parsed_expression(text) if decides else _environment.parse(text)
    except (TemplateSyntaxError, RecursionError, ValueError):
        return []  # reported elsewhere
    own = {n.name for n in parsed.find_all(nodes.Name) if n.ctx != "load"}
    looking = _Looking(where, {c: k for c, k in kinds.items() if c not in own}, decides)
    try:
        return list(dict.fromkeys(looking.mistakes(parsed)))
    except RecursionError:
        return []


class _Looking:
    def __init__(self, where: str, kinds: Mapping[str, Kind], decides: bool) -> None:
        self._where = where
        self._kinds = kinds
        self._decides = decides

    def mistakes(self, parsed: nodes.Template) -> Iterator[str]:
        if self._decides:
            for output in parsed.find_all(nodes.Output):
                for node in output.nodes:
                    yield from self._truth(node)
        for compare in parsed.find_all(nodes.Compare):
            left = compare.expr
            for operand in compare.ops:
                yield from self._pair(left, operand.op, operand.expr)
                left = operand.expr
        for test in parsed.find_all(nodes.Test):
            yield from self._test(test)
        for operation in parsed.find_all(_ARITHMETIC):
            yield from self._arithmetic(operation)

    def _truth(self, node: nodes.Node) -> Iterator[str]:
        if isinstance(node, nodes.Not):
            yield from self._truth(node.node)
        elif isinstance(node, nodes.And | nodes.Or):
            yield from self._truth(node.left)
            yield from self._truth(node.right)
        elif isinstance(node, nodes.CondExpr):
            for part in (node.test, node.expr1, node.expr2):
                if part is not None:
                    yield from self._truth(part)
        elif self._kind(node) in _TEXTS and (name := self._column(node)) is not None:
            yield (
                f"`{self._where}` asks whether `{name}` is true, but that column holds text, and "
                f"any non-empty text is true, even 'false'; add `records.types: {{{name}: bool}}`, "
                f"or compare it: `{name} == 'true'`, or `{name} != ''` for one that is not empty"
            )

    def _pair(self, left: nodes.Node, op: str, right: nodes.Node) -> Iterator[str]:
        if op in ("in", "notin"):
            if isinstance(right, nodes.List | nodes.Tuple):
                for item in right.items:
                    yield from self._pair(left, "eq", item)
                return
            if self._kind(right) not in _TEXTS or self._kind(left) in (*_TEXTS, None):
                return
        kinds = self._kind(left), self._kind(right)
        if None in kinds or _alike(*kinds):
            return
        column, other = self._column(left), right
        if column is None:
            column, other = self._column(right), left
        if column is not None:
            kind = self._kind(self._node(left, right, column))
            yield self._unlike(column, kind, other, ordered=op in _ORDER)

    def _node(self, left: nodes.Node, right: nodes.Node, column: str) -> nodes.Node:
        return left if self._column(left) == column else right

    def _unlike(self, column: str, kind: Kind | None, other: nodes.Node, *, ordered: bool) -> str:
        against = self._kind(other)
        shown = _shown(other) or f"a {against}"
        said = f"`{self._where}` compares `{column}` with {shown}, but that column holds "
        never = "neither can be the greater" if ordered else "they are never equal"
        if kind not in _TEXTS:
            fix = f"compare it with a {kind}, or remove `{column}` from `records.types`"
            return f"{said}a {kind}: {never}; {fix}"
        if against == "null":
            return f"{said}text, and an empty cell is empty text; write `{column} == ''`"
        to = {"bool": "bool", "date": "date", "datetime": "datetime"}.get(str(against), "int")
        if isinstance(other, nodes.Const) and isinstance(other.value, float):
            to = "float"
        fix = f"add `records.types: {{{column}: {to}}}`"
        if to in ("int", "float") and ordered:
            fix += f" (`decimal` for 12.50; for 12,50 write {comma_decimal(column)})"
        elif isinstance(other, nodes.Const):
            fix += f", or compare it with text: `{column} == '{shown}'`"
        return f"{said}text: {never}; {fix}"

    def _test(self, test: nodes.Test) -> Iterator[str]:
        kind, column = self._kind(test.node), self._column(test.node)
        if column is None:
            return
        if test.name in _COMPARING and test.args:
            yield from self._pair(test.node, _COMPARING[test.name], test.args[0])
        elif kind in _TEXTS and test.name in _NEVER_TEXT:
            to = "bool" if test.name in ("true", "false", "boolean") else "int"
            yield (
                f"`{self._where}` asks whether `{column}` is {test.name}, but that column holds "
                f"text; add `records.types: {{{column}: {to}}}`"
            )
        elif kind == "cell" and test.name == "none" and self._decides:
            yield (
                f"`{self._where}` asks whether `{column}` is null, but an empty cell is empty "
                f"text; write `{column} == ''`, or give the column a type in `records.types`"
            )

    def _arithmetic(self, node: nodes.BinExpr) -> Iterator[str]:
        sides = (node.left, node.right)
        kinds = [self._kind(side) for side in sides]
        both = all(kind in _TEXTS for kind in kinds)
        if isinstance(node, nodes.Add) and both:
            return
        if isinstance(node, nodes.Mod) and isinstance(node.left, nodes.Const):
            return  # a format string
        for side, kind in zip(sides, kinds, strict=True):
            column = self._column(side)
            if kind in _TEXTS and column is not None and ("number" in kinds or both):
                yield (
                    f"`{self._where}` computes with `{column}`, but that column holds text; add "
                    f"`records.types: {{{column}: float}}`, or write `({column} | float)`"
                )

    def _kind(self, node: nodes.Node | None) -> Kind | None:
        column = column_of(node) if node is not None else None
        if column is not None:
            return self._kinds.get(column)
        match node:
            case nodes.Const():
                return _of_constant(node.value)
            case nodes.Filter():
                return self._of_filter(node)
            case nodes.Call():
                return self._of_call(node)
            case nodes.And() | nodes.Or() | nodes.Add():
                return self._of_both(node.left, node.right)
            case nodes.CondExpr():
                return self._of_both(node.expr1, node.expr2)
            case nodes.Sub() | nodes.Mul() | nodes.Div() | nodes.FloorDiv() | nodes.Pow():
                return "number" if self._of_both(node.left, node.right) == "number" else None
        return next((kind for made, kind in _MAKES if isinstance(node, made)), None)

    def _of_both(self, one: nodes.Node, other: nodes.Node | None) -> Kind | None:
        kind = self._kind(one)
        return kind if kind == self._kind(other) else None

    def _of_filter(self, node: nodes.Filter) -> Kind | None:
        if node.name in _TO_TEXT:
            return "text"
        if node.name in _TO_NUMBER:
            return "number"
        if node.name in ("default", "d"):
            kind = self._kind(node.node)
            given = self._kind(node.args[0]) if node.args else "text"
            return kind if kind == given or {kind, given} == {*_TEXTS} else None
        return None

    def _of_call(self, node: nodes.Call) -> Kind | None:
        if not isinstance(node.node, nodes.Getattr) or self._kind(node.node.node) not in _TEXTS:
            return None
        method = node.node.attr
        return "text" if method in _SAME_METHODS else "bool" if method in _BOOL_METHODS else None

    def _column(self, node: nodes.Node | None) -> str | None:
        """The first column in the node whose kind is known."""
        if node is None:
            return None
        if (column := column_of(node)) is not None:
            return column if column in self._kinds else None
        every = (nodes.Name, nodes.Getattr, nodes.Getitem)
        return next(
            (c for n in node.find_all(every) if (c := column_of(n)) in self._kinds and c), None
        )


def _alike(one: Kind | None, other: Kind | None) -> bool:
    if "null" in (one, other):
        return "cell" not in (one, other)
    return one == other or {one, other} in ({*_TEXTS}, {"bool", "number"})


def _of_constant(value: object) -> Kind | None:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else None


def _shown(node: nodes.Node) -> str | None:
    if not isinstance(node, nodes.Const):
        return None
    names = {True: "true", False: "false", None: "none"}
    known = isinstance(node.value, bool) or node.value is None
    return names[node.value] if known else repr(node.value)
