"""Structured output: which schemas the API takes, and a value that fits one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .problems import bad_request

Schema = dict[str, Any]
NOTHING: Final = object()
_BOUNDS: Final = frozenset(
    {
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "maxItems",
        "uniqueItems",
        "patternProperties",
    }
)
_MOST_OPTIONAL, _MOST_UNIONS = 24, 16
_PLAIN: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_DEFAULTS: Final[dict[str, Any]] = {
    "string": "text",
    "integer": 0,
    "number": 0,
    "boolean": False,
    "null": None,
}


class Misfit(ValueError):
    """The test's oracle gave a value that the request's schema does not allow."""


def check(schema: Any) -> None:
    """Raises the 400 of a schema that the real API would not compile."""
    if not isinstance(schema, dict):
        raise bad_request("output_config.format.schema: Input should be a valid dictionary")
    tally = {"optional": 0, "unions": 0}
    _check(schema, schema, (), tally)
    if tally["optional"] > _MOST_OPTIONAL or tally["unions"] > _MOST_UNIONS:
        raise bad_request("output_config.format.schema: Schema is too complex")


def _check(schema: Schema, root: Schema, refs: tuple[str, ...], tally: dict[str, int]) -> None:
    if ref := schema.get("$ref"):
        if ref in refs:
            raise bad_request("output_config.format.schema: Circular reference is not supported")
        return _check(_follow(ref, root), root, (*refs, ref), tally)
    if bounds := sorted(_BOUNDS & set(schema)):
        raise bad_request(
            f"output_config.format.schema: For '{schema.get('type')}' type, "
            f"properties {', '.join(bounds)} are not supported"
        )
    tally["unions"] += "anyOf" in schema or isinstance(schema.get("type"), list)
    if schema.get("type") == "object" or "properties" in schema:
        if schema.get("additionalProperties") is not False:
            raise bad_request(
                "output_config.format.schema: For 'object' type, "
                "'additionalProperties' must be explicitly set to false"
            )
        tally["optional"] += len(
            set(schema.get("properties", {})) - set(schema.get("required", []))
        )
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    for child in [*inner, *([schema["items"]] if "items" in schema else [])]:
        _check(child, root, refs, tally)


def fill(schema: Schema, value: Any = NOTHING, root: Schema | None = None) -> Any:
    """The value, checked and with what it lacks filled in; by default the first that fits."""
    root = root or schema
    if ref := schema.get("$ref"):
        return fill(_follow(ref, root), value, root)
    if "const" in schema or "enum" in schema:
        return _pick(schema.get("enum", [schema.get("const")]), value)
    if choices := _choices(schema):
        return _first_fit(choices, value, root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if kind == "object":
        return _fill_object(schema, value, root)
    if kind == "array":
        items = [] if value is NOTHING else value
        if not isinstance(items, list):
            raise Misfit(f"{value!r} is not an array")
        return [fill(schema.get("items", {}), item, root) for item in items]
    if value is NOTHING:
        return _DEFAULTS[kind]
    if not isinstance(value, _PLAIN[kind]) or (isinstance(value, bool) and kind != "boolean"):
        raise Misfit(f"{value!r} is not of type {kind}")
    return value


def alter(
    schema: Schema, value: Any, change: Callable[[str], str], root: Schema | None = None
) -> Any:
    """The value with every string under an enum changed: a breach of the schema on purpose."""
    root = root or schema
    if ref := schema.get("$ref"):
        return alter(_follow(ref, root), value, change, root)
    if isinstance(value, dict):
        inner = schema.get("properties", {})
        return {k: alter(inner.get(k, {}), v, change, root) for k, v in value.items()}
    if isinstance(value, list):
        return [alter(schema.get("items", {}), item, change, root) for item in value]
    return change(value) if "enum" in schema and isinstance(value, str) else value


def _fill_object(schema: Schema, value: Any, root: Schema) -> dict[str, Any]:
    inner: dict[str, Schema] = schema.get("properties", {})
    given = {} if value is NOTHING else value
    if not isinstance(given, dict):
        if len(inner) != 1:
            raise Misfit(f"{value!r} is not an object")
        # An oracle may name the one answer without its wrapping.
        given = {next(iter(inner)): value}
    if unknown := set(given) - set(inner):
        raise Misfit(f"not in the schema: {sorted(unknown)}")
    wanted = [name for name in inner if name in given or name in schema.get("required", [])]
    return {name: fill(inner[name], given.get(name, NOTHING), root) for name in wanted}


def _pick(allowed: list[Any], value: Any) -> Any:
    if value is NOTHING:
        return allowed[0]
    if value not in allowed:
        raise Misfit(f"{value!r} is not one of {allowed!r}")
    return value


def _choices(schema: Schema) -> list[Schema]:
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": kind} for kind in schema["type"]]
    choices: list[Schema] = schema.get("anyOf", [])
    return choices


def _first_fit(choices: list[Schema], value: Any, root: Schema) -> Any:
    for choice in choices:
        try:
            return fill(choice, value, root)
        except Misfit:
            continue
    raise Misfit(f"{value!r} fits none of the choices")


def _follow(ref: str, root: Schema) -> Schema:
    place: Any = root
    for step in ref.removeprefix("#/").split("/"):
        if not isinstance(place, dict) or step not in place:
            raise bad_request(f"output_config.format.schema: cannot resolve {ref}")
        place = place[step]
    found: Schema = place
    return found
