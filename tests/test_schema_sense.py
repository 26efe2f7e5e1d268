"""Schemas that no answer can fit, or nobody can have meant, are told with their place."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.answering.schema_sense import senseless
from runner.answering.schemas import Schema
from runner.errors import JobError
from runner.job.file import load_job
from runner.pipeline.preflight import check_job
from tests.fakes import JOB

WORDS = st.sampled_from(["a", "b", "intent", "x y", "é", "$ref", "type"])


@st.composite
def leaves(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.integers(0, 6))
    low, more = draw(st.integers(-9, 9)), draw(st.integers(0, 9))
    if kind == 0:
        return {"type": "integer", "minimum": low, "maximum": low + more}
    if kind == 1:
        return {"type": "string", "minLength": more, "maxLength": more + 3}
    if kind == 2:
        return {"enum": draw(st.lists(st.text(max_size=3), min_size=1, max_size=4, unique=True))}
    if kind == 3:
        return {"type": ["string", "null"], "enum": ["yes", None]}
    if kind == 4:
        return {"type": "number", "exclusiveMinimum": low, "maximum": low + 1 + more}
    if kind == 5:
        return {"const": draw(st.sampled_from([1, True, None, "x"]))}
    return {"type": "string", "pattern": "^[A-Z]{2}$"}


def objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def made(draw: st.DrawFn) -> dict[str, Any]:
        names = draw(st.dictionaries(WORDS, inner, min_size=1, max_size=3))
        needed = draw(st.lists(st.sampled_from(list(names)), unique=True))
        schema = {"type": "object", "properties": names, "required": needed}
        return schema | draw(st.sampled_from([{}, {"additionalProperties": False}]))

    return made()


def grown(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    lists = inner.map(lambda of: {"type": "array", "items": of, "minItems": 1, "maxItems": 2})
    either = inner.map(lambda of: {"anyOf": [of, {"type": "null"}]})
    return st.one_of(objects(inner), lists, either)


GOOD = objects(st.recursive(leaves(), grown, max_leaves=4))
# What spoils a schema wherever it stands, and what is then said of it.
SPOILT: list[tuple[dict[str, Any], str]] = [
    ({"enum": []}, "`enum` is empty"),
    ({"type": "string", "enum": ["DE", False]}, "`enum` has false"),
    ({"type": "integer", "enum": [1, 1.5]}, "`enum` has 1.5"),
    ({"enum": ["a", "b", "a"]}, '`enum` has "a" twice'),
    ({"type": "string", "minLength": 3, "enum": ["yes", "no"]}, '`enum` has "no"'),
    ({"const": "c", "enum": ["a", "b"]}, "`enum` has"),
    ({"type": "string", "const": 5}, "`const` has 5"),
    ({"$ref": "#/$defs/Nope"}, "which does not exist"),
    ({"$ref": "https://example.com/s.json"}, "is not fetched"),
    ({"type": "integer", "minimum": 5, "maximum": 1}, "`minimum` 5 is over `maximum` 1"),
    ({"type": "number", "exclusiveMinimum": 1, "maximum": 1}, "no number lies between"),
    ({"type": "string", "minLength": 5, "maxLength": 1}, "`minLength` 5 is over `maxLength` 1"),
    ({"type": "array", "minItems": 5, "maxItems": 1}, "`minItems` 5 is over `maxItems` 1"),
    ({"type": "object", "minProperties": 2, "maxProperties": 1}, "`minProperties` 2 is over"),
    ({"type": "string", "pattern": "(a"}, "is not a regular expression"),
    ({"type": "object", "properties": {"intent": {}}, "required": ["intnet"]}, "mean `intent`?"),
    ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "nothing can fit it"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "no type satisfies"),
    ({"allOf": [{"minimum": 5}, {"maximum": 1}]}, "`minimum` 5 is over `maximum` 1"),
]  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(GOOD)
def test_a_good_schema_is_let_be(schema: dict[str, Any]) -> None:
    assert not list(senseless(schema))


def spots(schema: Any) -> list[tuple[dict[str, Any] | list[Any], Any]]:
    """Where in it a schema stands, as (holder, key)."""
    found: list[tuple[Any, Any]] = []
    if isinstance(schema, dict):
        for name, each in (schema.get("properties") or {}).items():
            found += [(schema["properties"], name), *spots(each)]
        if isinstance(schema.get("items"), dict):
            found += [(schema, "items"), *spots(schema["items"])]
        if "anyOf" in schema:
            found += [(schema["anyOf"], 0), *spots(schema["anyOf"][0])]
    return found


@settings(deadline=None, max_examples=200)
@given(GOOD, st.sampled_from(SPOILT), st.randoms(use_true_random=False))
def test_whatever_spoils_it_is_told_wherever_it_stands(
    schema: dict[str, Any], spoilt: tuple[dict[str, Any], str], chance: random.Random
) -> None:
    schema = copy.deepcopy(schema)
    holder, key = chance.choice(spots(schema))
    holder[key] = copy.deepcopy(spoilt[0])
    found = list(senseless(schema))
    assert any(spoilt[1] in said for _, said in found)
    for place, said in found:
        assert "\n" not in said
        at: Any = schema
        for step in place[:-1]:
            at = at[step]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]},
        {
            "$defs": {"T": {"type": "array", "items": {"$ref": "#/$defs/T"}, "minItems": 1}},
            "type": "object", "properties": {"t": {"$ref": "#/$defs/T"}}, "required": ["t"],
        },
    ],
)  # fmt: skip
def test_what_leads_back_to_itself_never_ends(schema: dict[str, Any]) -> None:
    assert any("without end" in said for _, said in senseless(schema))
    del schema["required"]
    assert not list(senseless(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"properties": {"a": {}}, "allOf": [{"properties": {"b": {}}, "required": ["a", "b"]}]},
        {"properties": {"a": {}}, "patternProperties": {"^x": {}}, "required": ["x1"]},
        {"properties": {"a": {"$ref": "#here"}}, "$defs": {"h": {"$anchor": "here"}}},
        {"properties": {"a": {"$ref": "#/$defs/x~1y%20z"}}, "$defs": {"x/y z": {"type": "null"}}},
        {"$defs": {"T": {"properties": {"up": {"$ref": "#/$defs/T"}}}}, "$ref": "#/$defs/T"},
        {"properties": {"a": {"$ref": "#/$defs/s", "enum": ["x"]}}, "$defs": {"s": {}}},
        {"properties": {"a": {"type": "integer", "enum": [1, 2.0]}}},
        {"properties": {"a": {"enum": [1, True, "1"]}}},
        {"properties": {"a": {"type": "string", "pattern": r"^\p{L}+$"}}},
        {"type": "object", "required": ["a"]},
    ],
)
def test_what_is_written_so_by_hand_is_let_be(schema: dict[str, Any]) -> None:
    Schema(schema)
    assert not list(senseless({"type": "object"} | schema))


@pytest.mark.parametrize("doubled", ["allOf", "anyOf"])
def test_references_that_double_cost_nothing(doubled: str) -> None:
    rules = {f"d{n}": {doubled: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
    schema = {"type": "object", "$defs": rules | {"d60": {}}, "properties": {"a": rules["d0"]}}
    assert not list(senseless(schema))


@pytest.mark.parametrize(("rule", "said"), SPOILT)
def test_a_job_names_its_line(tmp_path: Path, rule: dict[str, Any], said: str) -> None:
    check = checking(tmp_path, {"schema": {"type": "object", "properties": {"c": rule}}})
    with pytest.raises(JobError) as raised:
        check()
    [*_, mistake] = raised.value.mistakes
    assert mistake.startswith("line ")
    assert said in mistake or "is not a 'regex'" in mistake  # found with the schema's own form


def test_labels_with_white_space_around_them(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="white space around"):
        checking(tmp_path, {"labels": ["yes ", " no"]})()


@pytest.mark.parametrize("other", ["cafe\u0301", "\u200bcaf\xe9", "caf\xe9\xad"])
def test_labels_that_nobody_can_tell_apart(tmp_path: Path, other: str) -> None:
    with pytest.raises(JobError, match="which read the same: keep one"):
        checking(tmp_path, {"labels": ["caf\xe9", other]})()
    checking(tmp_path, {"labels": ["caf\xe9", "cafe", "Caf\xe9"]})()


def checking(folder: Path, answer: dict[str, Any]) -> Callable[[], None]:
    (folder / "records.csv").write_text("id,message\n1,hello\n")
    job = JOB | {"records": {"path": "records.csv", "id": "id"}, "answer": answer, "routes": []}
    path = folder / "job.yaml"
    path.write_text(json.dumps(job, indent=1))
    return lambda: check_job(load_job(path, strict=False))
