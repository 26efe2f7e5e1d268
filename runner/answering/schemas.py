"""Validates answers and labels against a job's JSON Schema, within bounds.

A pattern with exponential backtracking (``^(a+)+$``), or references that double at each step, would
take too long. Beyond the bound, an answer does not fit, and the error says so.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import regex
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry

from runner.formats.json_text import json_encoder
from runner.types import JSONValue

PATTERN_S = 0.2
MOST_REFERENCES = 2_000
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class _Left(threading.local):
    references = 0
    patterns_s = 0.0


_left = _Left()


class Schema:
    """A schema or a part of one. A ``$ref`` is resolved within the schema, never over the
    network."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        # With `$schema`, jsonschema would use its own keywords at a reference to the whole schema.
        bare = {name: rule for name, rule in schema.items() if name != "$schema"}
        self._validator: Validator = _bounded(validator_for(schema))(bare, registry=Registry())

    def parts(self) -> dict[str, Schema]:
        """The schema of each top-level property."""
        made = {}
        rules = self._validator.schema
        for name, rule in ((isinstance(rules, dict) and rules.get("properties")) or {}).items():
            made[name] = object.__new__(Schema)
            made[name]._validator = self._validator.evolve(schema=rule)
        return made

    def errors(self, value: Any) -> Iterator[ValidationError]:
        _left.references, _left.patterns_s = MOST_REFERENCES, 10 * PATTERN_S
        try:
            yield from self._validator.iter_errors(value)
        except RecursionError:
            yield ValidationError("the schema's references never end")

    def fits(self, value: Any) -> bool:
        return next(self.errors(value), None) is None


@functools.cache
def _bounded(usual: type[Validator]) -> type[Validator]:
    """The validator class of a JSON Schema dialect, with bounded keywords."""
    keywords = {name: _counted(usual.VALIDATORS[name]) for name in _REFERENCES
                if name in usual.VALIDATORS}  # fmt: skip
    keywords |= {
        "pattern": _pattern,
        "uniqueItems": _all_differ,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "unevaluatedProperties": _unevaluated(usual.VALIDATORS.get("unevaluatedProperties")),
    }
    made: type[Validator] = extend(usual, keywords)  # type: ignore[no-untyped-call]
    return made


def _found(pattern: str, text: str) -> bool | None:
    """Whether the pattern matches; None if that takes too long."""
    if _left.patterns_s <= 0:
        return None
    try:
        return regex.search(pattern, text, timeout=PATTERN_S) is not None
    except TimeoutError:
        _left.patterns_s -= PATTERN_S
        return None


def _too_long(pattern: str) -> ValidationError:
    return ValidationError(f"matching the pattern {pattern!r} takes over {PATTERN_S:g} s")


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(value, str):
        return
    found = _found(pattern, value)
    if found is None:
        yield _too_long(pattern)
    elif not found:
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], value: Any, schema: Any
) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    for pattern, rule in patterns.items():
        for name, each in value.items():
            found = _found(pattern, name)
            if found is None:
                yield _too_long(pattern)
            elif found:
                yield from validator.descend(each, rule, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, rule: Any, value: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    patterns = list(schema.get("patternProperties", ()))
    extra = [
        name
        for name in value
        if name not in schema.get("properties", ())
        and not any(_found(pattern, name) for pattern in patterns)
    ]
    if isinstance(rule, dict):
        for name in extra:
            yield from validator.descend(value[name], rule, path=name)
    elif not rule and extra:
        named = ", ".join(map(repr, extra))
        yield ValidationError(f"Additional properties are not allowed ({named})")


def _unevaluated(usual: Any) -> Any:
    def check(validator: Any, rule: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
        if "patternProperties" in schema:
            raise ValueError("`unevaluatedProperties` beside `patternProperties` is not supported")
        if usual is not None:
            yield from usual(validator, rule, value, schema)

    return check


def _counted(usual: Any) -> Any:
    def check(validator: Any, to: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
        _left.references -= 1
        if _left.references < 0:
            yield ValidationError(f"the schema follows over {MOST_REFERENCES:,} references")
        else:
            yield from usual(validator, to, value, schema)

    return check


def _all_differ(
    validator: Any, wanted: object, value: object, schema: object
) -> Iterator[ValidationError]:
    """``uniqueItems`` in one pass; the one of jsonschema compares all pairs of items."""
    if wanted and validator.is_type(value, "array"):
        seen = {_sorted_text(_by_kind(item)) for item in value}  # type: ignore[attr-defined]
        if len(seen) < len(value):  # type: ignore[arg-type]
            yield ValidationError("its items are not all different")


def _by_kind(value: JSONValue) -> JSONValue:
    """Converts numbers so that 1 equals 1.0 but not true, as in JSON Schema."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_by_kind(each) for each in value]
    if isinstance(value, dict):
        return {name: _by_kind(each) for name, each in value.items()}
    return value


_sorted_text = json_encoder(sort_keys=True)
