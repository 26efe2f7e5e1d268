"""Schemas that would take for ever to hold an answer against: it does not fit, and soon."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema.validators import validator_for

from runner.answering.check import Checker
from runner.answering.schemas import Schema
from runner.types import Completion, Constraint

SLOW = (
    r"^(a+)+$", r"^(a|a)*$", r"^(a|aa)+$", r"^(a*)*b", r"(a*)*(a*)*(a*)*(a*)*$b", r"^((a+)+)+$",
    r"^(\w+\s?)*$", r"^(.*,){30}P", r"(x+x+)+y|^(a+)+$", r"^(?:a?){40}a{40}b$", r"(.*a){25}b",
)  # fmt: skip
TEXT = "a" * 60_000 + "!"


def doubled(depth: int, how: str) -> dict[str, Any]:
    rules = {
        f"d{n}": {how: [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]}
        for n in range(depth)
    }
    return {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/d0"}},
        "$defs": {**rules, f"d{depth}": {"type": "string"}},
    }


def problem(schema: dict[str, Any], value: Any) -> str | None:
    began = time.process_time()
    found = Checker(Constraint(schema=schema)).check(Completion(json.dumps(value), "m", "stop"))
    assert time.process_time() - began < 5
    return found.problem


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        *(("pattern", pattern) for pattern in SLOW),
        *((kind, SLOW[0]) for kind in ("patternProperties", "names", "additional", "whole")),
    ],
)
def test_a_pattern_that_tries_every_way(pattern: str, kind: str) -> None:
    rules: dict[str, dict[str, Any]] = {
        "pattern": {"properties": {"a": {"pattern": pattern}}},
        "patternProperties": {"patternProperties": {pattern: {"type": "number"}}},
        "names": {"propertyNames": {"pattern": pattern}},
        "additional": {"patternProperties": {pattern: True}, "additionalProperties": False},
        "whole": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "properties": {"a": {"anyOf": [{"$ref": "#"}, {"pattern": pattern}]}},
        },
    }
    value = {"a": TEXT} if kind in ("pattern", "whole") else {TEXT: "x"}
    problem({"type": "object", **rules[kind]}, value)


@pytest.mark.parametrize("how", ["allOf", "anyOf", "oneOf"])
@pytest.mark.parametrize("value", ["x", 1])
def test_references_that_double(how: str, value: object) -> None:
    problem(doubled(40, how), {"a": value})


def test_references_that_never_end() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}},
              "$defs": {"a": {"$ref": "#/$defs/a"}}}  # fmt: skip
    assert problem(schema, {"a": 1}) is not None


RULES = st.sampled_from(
    [{"pattern": "^[a-c]+$"}, {"type": "integer"}, {"enum": ["a", "b"]}, {"maxLength": 2}, {}]
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "x_1"]), RULES, max_size=3),
    st.dictionaries(st.sampled_from(["^x_", "b", "[0-9]$"]), RULES, max_size=2),
    st.sampled_from([None, True, False, {"type": "integer"}, {"pattern": "a"}]),
    st.dictionaries(
        st.sampled_from(["a", "b", "x_1", "other"]),
        st.one_of(st.integers(0, 3), st.sampled_from(["a", "b", "abc", "z"]), st.none()),
    ),
)
def test_what_fits_is_what_jsonschema_says(
    properties: dict[str, Any], patterns: dict[str, Any], more: Any, value: dict[str, Any]
) -> None:
    schema: dict[str, Any] = {"properties": properties, "patternProperties": patterns}
    if more is not None:
        schema["additionalProperties"] = more
    usual = validator_for(schema)(schema)
    assert Schema(schema).fits(value) == usual.is_valid(value)
    for name, part in Schema(schema).parts().items():
        if name in value:
            assert part.fits(value[name]) == usual.evolve(schema=properties[name]).is_valid(
                value[name]
            )


@given(st.text("ab1 -é", max_size=12))
@settings(max_examples=100, deadline=None)
def test_patterns_mean_what_they_mean_in_python(text: str) -> None:
    for pattern in (r"^\d+$", r"\bab?\b", r"^[A-Z]{2}", "é|1", r"(?i)AB", r"^(?:a|b)*$", r"\w-\w"):
        assert Schema({"pattern": pattern}).fits(text) == bool(re.search(pattern, text))
