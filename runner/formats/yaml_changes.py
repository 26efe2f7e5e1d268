"""Finds values among a job's possible answers that YAML reads differently than written: ``NO`` as
false, ``007`` as 7, ``12:30`` as 750. Quotes make them text; a matching ``type`` says that the
reading is intended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from runner.formats import bounded_yaml

Location = tuple[str | int, ...]
_OF_VALUES = ("enum", "const", "examples", "default")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "boolean": bool, "integer": int, "number": (int, float), "null": type(None),
}  # fmt: skip


def changes(root: yaml.Node | None) -> Iterator[tuple[Location, str]]:
    """The place of each such value, and a message about it."""
    schema = _under(_under(root, "answer"), "schema")
    yield from _in_schema(schema, ("answer", "schema"))
    routes = _under(root, "routes")
    for n, rule in enumerate(routes.value if isinstance(routes, yaml.SequenceNode) else ()):
        at: Location = ("routes", n, "answer")
        answer = _under(rule, "answer")
        if isinstance(answer, yaml.MappingNode):
            for key, value in answer.value:
                rules = _under(_under(schema, "properties"), key.value)
                yield from _scalars(value, (*at, key.value), _types(rules))
        else:
            yield from _scalars(answer, at, ())


def _in_schema(node: yaml.Node | None, at: Location) -> Iterator[tuple[Location, str]]:
    if isinstance(node, yaml.SequenceNode):
        for n, each in enumerate(node.value):
            yield from _in_schema(each, (*at, n))
    if not isinstance(node, yaml.MappingNode):
        return
    names = at[-1] == "properties"  # its keys are names of columns, not keywords
    for key, value in node.value:
        here = (*at, key.value)
        if key.value in _OF_VALUES and not names:
            yield from _scalars(value, here, _types(node))
        else:
            yield from _in_schema(value, here)


def _scalars(
    node: yaml.Node | None, at: Location, types: tuple[str, ...]
) -> Iterator[tuple[Location, str]]:
    if isinstance(node, yaml.SequenceNode):
        for n, each in enumerate(node.value):
            yield from _scalars(each, (*at, n), types)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(value, (*at, key.value), ())
    elif isinstance(node, yaml.ScalarNode) and not node.style:
        value = bounded_yaml.value(node)
        meant = any(_is(value, kind) for kind in types)
        if not meant and not isinstance(value, str) and not _as_written(value, node.value):
            said = f"YAML reads {node.value or 'nothing'} here as {_shown(value)}"
            yield at, f"{said}; put it in quotes to keep it as written: '{node.value}'"


def _as_written(value: Any, text: str) -> bool:
    if value is None:
        return text == "null"
    if isinstance(value, bool):
        return text.lower() in ("true", "false")
    return text in (str(value), repr(value))


def _is(value: Any, kind: str) -> bool:
    expected = _TYPES.get(kind)
    if expected is None or (isinstance(value, bool) and kind != "boolean"):
        return False
    return isinstance(value, expected)


def _types(node: yaml.Node | None) -> tuple[str, ...]:
    declared = _under(node, "type")
    if isinstance(declared, yaml.ScalarNode):
        return (declared.value,)
    if isinstance(declared, yaml.SequenceNode):
        return tuple(each.value for each in declared.value if isinstance(each, yaml.ScalarNode))
    return ()


def _under(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _shown(value: Any) -> str:
    known: Mapping[Any, str] = {True: "true", False: "false", None: "null"}
    return known[value] if isinstance(value, bool) or value is None else repr(value)
