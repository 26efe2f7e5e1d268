"""The job's JSON Schema as OpenAI's strict mode takes it.

Strict mode wants every object closed and every property required. Both only narrow what the job
allows, so an answer of the strict form is one of the job's; bounds that it does not know are left
out, and `runner.answering.check` holds the answer against the job's own schema either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KEPT = {
    "const", "description", "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "maximum",
    "maxItems", "minimum", "minItems", "multipleOf", "pattern", "type",
}  # fmt: skip
# Bounds and remarks that strict mode refuses; without them the schema allows more, never less.
_DROPPED = {
    "$anchor", "$comment", "$id", "$schema", "contentEncoding", "contentMediaType", "default",
    "deprecated", "examples", "maxLength", "maxProperties", "minLength", "minProperties",
    "readOnly", "title", "uniqueItems", "writeOnly",
}  # fmt: skip
_WALKED = {
    "$defs", "$ref", "additionalProperties", "anyOf", "definitions", "items", "properties",
    "required",
}  # fmt: skip
_KINDS = {
    str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null",
    list: "array", dict: "object",
}  # fmt: skip


def strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ValueError, with a sentence, where the strict form would lose what is asked for."""
    if "anyOf" in schema:
        raise ValueError("`anyOf` cannot stand at the top")
    return _strict(schema, "the top")


def _strict(schema: Any, where: str) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise ValueError(f"{schema!r} at {where} leaves open what is wanted")
    if unknown := sorted(set(schema) - _KEPT - _DROPPED - _WALKED):
        raise ValueError(f"`{unknown[0]}` at {where} is not supported")
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}  # it must stand alone
    plain = {name: value for name, value in schema.items() if name in _KEPT}
    for name in ("$defs", "definitions"):
        if name in schema:
            plain[name] = {key: _strict(rule, key) for key, rule in schema[name].items()}
    if "anyOf" in schema:
        plain["anyOf"] = [_strict(choice, where) for choice in schema["anyOf"]]
        return plain
    plain = {"type": _kind(schema, where)} | plain
    kinds = plain["type"] if isinstance(plain["type"], list) else [plain["type"]]
    if "object" in kinds and "const" not in schema and "enum" not in schema:
        plain |= _closed(schema, where)
    if "array" in kinds and "const" not in schema and "enum" not in schema:
        plain["items"] = _strict(schema.get("items"), f"the items of {where}")
    return plain


def _closed(schema: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The object with its own properties and no others, all of them required."""
    names = schema.get("properties")
    # An object said to be open by hand is wanted for what its properties do not name.
    if not names or schema.get("additionalProperties", False) not in (False, True):
        raise ValueError(f"{where} has properties without names")
    if missing := set(schema.get("required") or ()) - set(names):
        raise ValueError(f"`{min(missing)}` at {where} is required and not described")
    return {
        "properties": {name: _strict(rule, f"`{name}`") for name, rule in names.items()},
        "required": list(names),
        "additionalProperties": False,
    }


def _kind(schema: Mapping[str, Any], where: str) -> Any:
    """The type, which may be left to an enum's values in JSON Schema and may not here."""
    if "type" in schema:
        return schema["type"]
    if "properties" in schema:
        return "object"
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    kinds = list(dict.fromkeys(_KINDS[type(value)] for value in values))
    if not kinds:
        raise ValueError(f"{where} has no type")
    return kinds[0] if len(kinds) == 1 else kinds
