"""Finds mistakes in a JSON Schema that no answer can satisfy or that cannot be intended."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import regex

from runner.answering.schemas import Schema
from runner.plain import one_line

Place = tuple[str | int, ...]
Found = tuple[Place, str]

_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTED = ("allOf", "anyOf", "oneOf", "prefixItems")
_ALONE = (
    "items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames",
    "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
_COMBINED = ("allOf", "anyOf", "oneOf", "if", "then", "else", "$ref", "dependentSchemas")
_BOUNDS = (
    ("minimum", "maximum"), ("minLength", "maxLength"), ("minItems", "maxItems"),
    ("minProperties", "maxProperties"), ("minContains", "maxContains"),
)  # fmt: skip
_LOW, _HIGH = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
_MOST_VALUES = 1000
_SHOWN = 60


def senseless(schema: Mapping[str, Any]) -> Iterator[Found]:
    """Each mistake as its place in the schema and a sentence that begins in lower case."""
    for place, part, within in _parts(schema, (), False):
        found = list(_of_references(schema, part))
        found += _of_patterns(part)
        found += _of_bounds(_merged(schema, part))
        found += _of_types(schema, part)
        if not found:  # validates values, which needs a valid schema
            found += _of_values(schema, part)
        if not within:
            found += _of_required(part)
        for more, said in found:
            yield (*place, *more), said
    if not _has_end(schema):
        yield ((), "it requires itself without end, so no answer can fit it")


def _parts(part: Any, place: Place, within: bool) -> Iterator[tuple[Place, dict[str, Any], bool]]:
    """Every subschema; ``within``: other schemas apply to the same value."""
    if not isinstance(part, dict):
        return
    yield place, part, within
    for name in _NAMED:
        if isinstance(part.get(name), dict):
            for key, each in part[name].items():
                yield from _parts(each, (*place, name, key), name == "dependentSchemas")
    for name in _LISTED:
        if isinstance(part.get(name), list):
            beside = name == "allOf" or (name != "prefixItems" and (within or "properties" in part))
            for n, each in enumerate(part[name]):
                yield from _parts(each, (*place, name, n), beside)
    for name in _ALONE:
        beside = name in ("not", "if", "then", "else")
        yield from _parts(part.get(name), (*place, name), beside)


def _merged(root: Mapping[str, Any], part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The schema and those that apply with it through ``allOf`` and ``$ref``, each once."""
    found, seen = [part], {id(part)}
    for each in found:
        beside = each.get("allOf")
        others = list(beside) if isinstance(beside, list) else []
        if isinstance(each.get("$ref"), str):
            others.append(_referred(root, each["$ref"]))
        for other in others:
            if isinstance(other, dict) and id(other) not in seen:
                seen.add(id(other))
                found.append(other)
    return found


def _of_references(root: Mapping[str, Any], part: Mapping[str, Any]) -> Iterator[Found]:
    to = part.get("$ref")
    if not isinstance(to, str):
        return
    if not to.startswith("#"):
        yield ("$ref",), f"`$ref` leads to {to!r}, which is not fetched; put it under `$defs`"
    elif _referred(root, to) is None:
        yield ("$ref",), f"`$ref` leads to {to!r}, which does not exist"


def _referred(root: Mapping[str, Any], to: str) -> Any:
    """The target of a local reference, or None."""
    at: Any = root
    if to.startswith("#/"):
        for step in to[2:].split("/"):
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(at, dict) and step in at:
                at = at[step]
            elif isinstance(at, list) and step.isdecimal() and int(step) < len(at):
                at = at[int(step)]
            else:
                return None
        return at
    if to == "#":
        return root
    named = (p for _, p, _ in _parts(root, (), False) if p.get("$anchor") == to[1:])
    return next(named, None)


def _of_patterns(part: Mapping[str, Any]) -> Iterator[Found]:
    given = [("pattern", part.get("pattern"))]
    if isinstance(part.get("patternProperties"), dict):
        given += [("patternProperties", name) for name in part["patternProperties"]]
    for key, pattern in given:
        if isinstance(pattern, str):
            try:
                regex.compile(pattern)
            except (regex.error, re.error, ValueError) as error:
                yield (key,), f"`{key}` {_shown(pattern)} is not a regular expression: {error}"


def _of_bounds(parts: Sequence[Mapping[str, Any]]) -> Iterator[Found]:
    for low, high in _BOUNDS:
        least = max((p[low] for p in parts if _is_number(p.get(low))), default=None)
        most = min((p[high] for p in parts if _is_number(p.get(high))), default=None)
        if least is not None and most is not None and least > most:
            yield (low if low in parts[0] else "allOf",), f"`{low}` {least} is over `{high}` {most}"
    lows = [(p[key], key) for p in parts for key in _LOW if _is_number(p.get(key))]
    highs = [(p[key], key) for p in parts for key in _HIGH if _is_number(p.get(key))]
    for low, key in lows:
        for high, other in highs:
            is_open = key != "minimum" or other != "maximum"
            if is_open and low >= high:
                yield (key,), f"no number lies between `{key}` {low} and `{other}` {high}"


def _of_types(root: Mapping[str, Any], part: Mapping[str, Any]) -> Iterator[Found]:
    types: set[str] | None = None
    for each in _merged(root, part):
        if "type" in each:
            given = {each["type"]} if isinstance(each["type"], str) else set(each["type"])
            given |= {"integer"} if "number" in given else set()
            types = given if types is None else types & given
    if types is not None and not types:
        key = "allOf" if "allOf" in part else "type"
        yield (key,), "no type satisfies all of its parts, which require different ones"


def _of_values(root: Mapping[str, Any], part: Mapping[str, Any]) -> Iterator[Found]:
    key = "enum" if "enum" in part else "const"
    if key not in part:
        return
    values = part["enum"] if key == "enum" else [part["const"]]
    if not values:
        yield ("enum",), "`enum` is empty, so no answer can fit it"
    # If both `enum` and `const` are given, each is validated against the other.
    bare = {name: rule for name, rule in part.items() if name != key}
    held = {name: root[name] for name in ("$defs", "definitions") if name in root} | bare
    if "$ref" in bare and not str(bare["$ref"]).startswith(("#/$defs/", "#/definitions/")):
        return
    rule, seen = Schema(held), set()
    for value in values[:_MOST_VALUES]:
        if (problem := next(rule.errors(value), None)) is not None:
            yield (key,), f"`{key}` has {_shown(value)}: {one_line(problem.message)[:200]}"
        if (text := json.dumps(value, sort_keys=True, default=str)) in seen:
            yield (key,), f"`{key}` has {_shown(value)} twice"
        seen.add(text)


def _of_required(part: Mapping[str, Any]) -> Iterator[Found]:
    names, required = part.get("properties"), part.get("required") or []
    if isinstance(names, dict):
        for name in required if not _is_open(part) else ():
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean `{near[0]}`?" if near else "describe it, or leave it out"
                yield ("required",), f"`required` names `{name}`, which `properties` lack; {hint}"
        for name in required:
            if names.get(name) is False:
                yield ("properties", name), f"`{name}` is required, and nothing can fit it"
        closed = part.get("additionalProperties") is False and "patternProperties" not in part
        if closed and _number(part, "minProperties") > len(names):
            yield ("minProperties",), f"`minProperties` is over the {len(names)} `properties`"
    if "maxProperties" in part and _number(part, "maxProperties") < len(set(required)):
        yield ("maxProperties",), f"`maxProperties` is under the {len(set(required))} required"


def _is_open(part: Mapping[str, Any]) -> bool:
    """Whether keywords other than `properties` may describe a field."""
    others = isinstance(part.get("additionalProperties"), dict) or "patternProperties" in part
    return others or any(name in part for name in _COMBINED)


def _has_end(root: Mapping[str, Any]) -> bool:
    """Whether a finite value can fit the schema."""
    references = {
        p["$ref"] for _, p, _ in _parts(root, (), False) if isinstance(p.get("$ref"), str)
    }
    known: set[str] = set()
    while more := {r for r in references - known if _ends(_referred(root, r), known)}:
        known |= more
    return _ends(root, known)


def _ends(part: Any, known: set[str]) -> bool:
    """Whether a finite value can fit; ``known``: the references for which one can."""
    if not isinstance(part, dict) or "enum" in part or "const" in part:
        return True
    if isinstance(part.get("$ref"), str) and part["$ref"] not in known:
        return False
    for name in ("anyOf", "oneOf"):
        if part.get(name) and not any(_ends(each, known) for each in part[name]):
            return False
    needed = list(part.get("allOf") or ())
    kinds = part.get("type")
    if kinds in ("object", ["object"]) and isinstance(part.get("properties"), dict):
        needed += [part["properties"].get(name) for name in part.get("required") or ()]
    if kinds in ("array", ["array"]) and _number(part, "minItems") > 0:
        needed.append(part.get("items"))
    return all(_ends(each, known) for each in needed)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(part: Mapping[str, Any], key: str) -> float:
    value = part.get(key, 0)
    return value if _is_number(value) else 0


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return one_line(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
