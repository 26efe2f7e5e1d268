"""Finds the columns that an expression reads, and what it compares them with, from its syntax."""

from __future__ import annotations

from itertools import pairwise

from jinja2 import nodes

from runner.templates.sandbox import Environment

_environment = Environment()


def parsed_expression(text: str) -> nodes.Template:
    return _environment.parse("{{ " + text + " }}")


def parsed_template(text: str) -> nodes.Template:
    return _environment.parse(text)


def column_of(node: nodes.Node) -> str | None:
    """The column if the node is just one: ``x``, ``record.x`` or ``record['x']``."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr | nodes.Getitem):
        inner = node.node
        if isinstance(inner, nodes.Name) and inner.name == "record":
            if isinstance(node, nodes.Getattr):
                return node.attr
            if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
                return node.arg.value
    return None


def compared_texts(text: str) -> dict[str, set[str]]:
    """Column → the constant texts that the expression compares it with."""
    found: dict[str, set[str]] = {}
    for node in parsed_expression(text).find_all(nodes.Compare):
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        for one, other in [
            *pairwise(sides),
            *((b, a) for a, b in pairwise(sides)),
        ]:
            listed = other.items if isinstance(other, nodes.List | nodes.Tuple) else [other]
            texts = {c.value for c in listed if isinstance(c, nodes.Const) and _is_text(c.value)}
            if texts and (column := column_of(one)) is not None:
                found.setdefault(column, set()).update(texts)
    return found


def columns_of(parsed: nodes.Template) -> set[str]:
    """All columns that the template names."""
    every = (nodes.Name, nodes.Getattr, nodes.Getitem)
    named = {column_of(node) for node in parsed.find_all(every)}
    return {name for name in named if name is not None} - {"record"}


def looked_at(text: str) -> set[str]:
    """The columns that the expression uses without a check for null."""
    parsed = parsed_expression(text)
    asked: set[str | None] = set()
    for test in parsed.find_all(nodes.Test):
        if test.name in ("none", "defined", "undefined"):
            asked.add(column_of(test.node))
    for each in parsed.find_all(nodes.Filter):
        if each.name in ("default", "d") and each.node is not None:
            asked.add(column_of(each.node))
    for compare in parsed.find_all(nodes.Compare):
        sides = [compare.expr, *(operand.expr for operand in compare.ops)]
        if any(isinstance(side, nodes.Const) and side.value is None for side in sides):
            asked |= {column_of(side) for side in sides}
    return {name for name in columns_of(parsed) if name not in asked}


def _is_text(value: object) -> bool:
    return isinstance(value, str)
