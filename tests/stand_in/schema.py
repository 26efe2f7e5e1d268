"""Structured output: which schemas the APIs take, and a value that fits one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from jsonschema import Draft202012Validator

from .faults import Problem, bad_request

Schema = dict[str, Any]
NOTHING: Final = object()
_BOUNDS: Final = frozenset(
    {
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength",
        "maxLength", "maxItems", "uniqueItems", "patternProperties",
    }
)  # fmt: skip
_STRICT: Final = frozenset(
    {
        "$defs", "$ref", "additionalProperties", "anyOf", "const", "description", "enum",
        "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maximum", "maxItems", "minimum",
        "minItems", "multipleOf", "pattern", "properties", "required", "type",
    }
)  # fmt: skip
_MOST_OPTIONAL, _MOST_UNIONS = 24, 16
_DEFAULTS: Final[dict[str, Any]] = {
    "string": "text",
    "integer": 0,
    "number": 0,
    "boolean": False,
    "null": None,
    "array": [],
}


class Misfit(ValueError):
    """The test's oracle gave a value that the request's schema does not allow."""


def check(schema: Schema) -> None:
    """Raises the 400 of a schema that Claude's API would not compile."""
    optional = unions = 0
    for node in _nodes(schema, schema, ()):
        if bounds := sorted(_BOUNDS & set(node)):
            raise _unfit(f"For '{node.get('type')}' type, properties {bounds} are not supported")
        unions += "anyOf" in node or isinstance(node.get("type"), list)
        if _is_object(node):
            if node.get("additionalProperties") is not False:
                raise _unfit("'additionalProperties' must be explicitly set to false")
            optional += len(set(node.get("properties", {})) - set(node.get("required", [])))
    if optional > _MOST_OPTIONAL or unions > _MOST_UNIONS:
        raise _unfit("Schema is too complex")


def check_strict(schema: Schema) -> None:
    """The same of OpenAI's strict mode."""
    if schema.get("type") != "object":
        raise _unfit("not an object")
    for node in _nodes(schema, schema, ()):
        if extra := sorted(set(node) - _STRICT):
            raise _unfit(f"'{extra[0]}'")
        if "type" not in node and "anyOf" not in node:
            raise _unfit("must have a 'type' key")
        names = set(node.get("properties", {}))
        closed = (
            node.get("additionalProperties") is False and set(node.get("required", [])) == names
        )
        if "object" in str(node.get("type")) and not closed:
            raise _unfit("'required' lacks keys")


def fill(schema: Schema, value: Any = NOTHING) -> Any:
    """The value, checked and with what it lacks filled in; by default the first of its type."""
    filled = _fill(schema, value, schema)
    wrong = next(Draft202012Validator(schema).iter_errors(filled), None)
    if wrong is not None and value is not NOTHING:
        raise Misfit(wrong.message)
    return filled


def alter(schema: Schema, value: Any, change: Callable[[str], str]) -> Any:
    """The value with every string under an enum changed: a breach of the schema on purpose."""
    if isinstance(value, dict):
        inner = schema.get("properties", {})
        return {k: alter(inner.get(k, {}), v, change) for k, v in value.items()}
    return change(value) if "enum" in schema and isinstance(value, str) else value


def _nodes(schema: Any, root: Schema, refs: tuple[str, ...]) -> Iterator[Schema]:
    """The schema and all inside it, references followed."""
    if not isinstance(schema, dict):
        raise _unfit("Input should be a valid dictionary")
    if ref := schema.get("$ref"):
        if ref in refs:
            raise _unfit("Circular reference is not supported")
        yield from _nodes(_follow(ref, root), root, (*refs, ref))
        return
    yield schema
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    for child in [*inner, *([schema["items"]] if "items" in schema else [])]:
        yield from _nodes(child, root, refs)


def _fill(schema: Schema, value: Any, root: Schema) -> Any:
    if ref := schema.get("$ref"):
        return _fill(_follow(ref, root), value, root)
    if _is_object(schema):
        return _fill_object(schema, value, root)
    if value is not NOTHING:
        return value
    if "const" in schema or "enum" in schema:
        return schema.get("enum", [schema.get("const")])[0]
    if "anyOf" in schema:
        return _fill(schema["anyOf"][0], value, root)
    kind = schema.get("type", "string")
    return _DEFAULTS[kind[0] if isinstance(kind, list) else kind]


def _fill_object(schema: Schema, value: Any, root: Schema) -> Any:
    inner: dict[str, Schema] = schema.get("properties", {})
    given = {} if value is NOTHING else value
    if not isinstance(given, dict):
        if len(inner) != 1:
            return value
        # An oracle may name the one answer without its wrapping.
        given = {next(iter(inner)): value}
    wanted = {name: NOTHING for name in inner if name in schema.get("required", [])} | given
    order = [*(name for name in inner if name in wanted), *(n for n in given if n not in inner)]
    return {name: _fill(inner.get(name, {}), wanted[name], root) for name in order}


def _is_object(schema: Schema) -> bool:
    return schema.get("type") == "object" or "properties" in schema


def _follow(ref: str, root: Schema) -> Schema:
    place: Any = root
    for step in ref.removeprefix("#/").split("/"):
        if not isinstance(place, dict) or step not in place:
            raise _unfit(f"cannot resolve {ref}")
        place = place[step]
    found: Schema = place
    return found


def _unfit(message: str) -> Problem:
    return bad_request(f"Invalid schema for response_format or output_config.format: {message}")
