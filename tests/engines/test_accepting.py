"""`validate` says what the engine would refuse, and lets pass what it takes; no model is loaded."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llguidance.hf
import pytest
import xgrammar
from transformers import AutoTokenizer

from runner.answering.schema_sense import senseless
from runner.engines.accepting import answered
from runner.engines.vllm import holding as holding
from runner.types import Constraint
from tests import jobs
from tests.engines.asking import SLOW
from tests.fakes import surelocal

pytestmark = SLOW

VOCABULARY = 1000
GOOD: list[dict[str, Any]] = [
    {"top_p": 0.5}, {"top_k": 5}, {"min_p": 0.1}, {"stop": ["a"]}, {"logit_bias": {5: 1}},
    {"repetition_penalty": 1.1}, {"presence_penalty": -2}, {"min_tokens": 3}, {"bad_words": ["x"]},
]  # fmt: skip
BAD: list[dict[str, Any]] = [
    {"top_p": 5}, {"top_p": 0}, {"top_p": "a"}, {"top_k": 1.5}, {"top_k": -2}, {"min_p": 2},
    {"repetition_penalty": 0}, {"presence_penalty": 3}, {"frequency_penalty": -3}, {"stop": ""},
    {"stop": 5}, {"min_tokens": 500}, {"logit_bias": {VOCABULARY: 1}}, {"logit_bias": [1]},
    {"logit_bias": {"a": 1}}, {"allowed_token_ids": []}, {"allowed_token_ids": [-1]},
    {"stop_token_ids": [VOCABULARY]}, {"bad_words": "x"}, {"unknown": 1}, {"ignore_eos": "x"},
]  # fmt: skip
REFUSED: list[dict[str, Any]] = [
    {"type": "array", "uniqueItems": True}, {"type": "array", "contains": {"const": 1}},
    {"type": "string", "format": "phone"}, {"type": "string", "pattern": "(a"}, {"enum": []},
    {"type": "string", "minLength": 2, "maxLength": 1}, {"$ref": "#/$defs/Nope"},
    {"type": "integer", "minimum": 2, "maximum": 1},
    {"type": "array", "minItems": 2, "maxItems": 1},
]  # fmt: skip
TAKEN: list[dict[str, Any]] = [
    {"type": "boolean"}, {"type": ["string", "null"]}, {"enum": ["a", 1, None]}, {"const": "x"},
    {"type": "string", "format": "date"}, {"type": "string", "pattern": "^[a-z]+$", "maxLength": 4},
    {"type": "number", "multipleOf": 0.5}, {"type": "array", "items": {"type": "integer"}},
    {"anyOf": [{"type": "integer", "minimum": -5}, {"type": "null"}]}, {"$ref": "#/$defs/Own"},
]  # fmt: skip


SEEDS = 200
DEFS = {"Own": {"type": "string"}, "Two": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Two"}]}}
KEYS: dict[str, tuple[Any, ...]] = {
    "minLength": (0, 2), "maxLength": (0, 3, 2000), "minimum": (0, -5, 0.5), "maximum": (1, 10**6),
    "pattern": ("^[a-z]+$", "(?=a)b", "a{2,1}", r"(a)\1", "a++", r"\bfoo\b", "[z-a]", ""),
    "format": ("date", "email", "phone", "idn-email", ""), "multipleOf": (2, 0.1, 1e-5),
    "minItems": (0, 3), "maxItems": (1, 50), "uniqueItems": (True, False), "items": (TAKEN[0], {}),
    "contains": ({"const": 1},), "prefixItems": ([{"type": "null"}],), "not": ({"const": 1},),
    "patternProperties": ({"^x": {}}, {"(": {}}), "propertyNames": ({"maxLength": 3},),
    "dependentRequired": ({"a": ["b"]},), "unevaluatedProperties": (False,), "minProperties": (2,),
    "enum": (["a"], [], ["a", 1, None, 1.5], [{"a": 1}], ['"', "\\u2028"]), "const": ("", [1], 1.0),
    "$ref": ("#/$defs/Two", "#/$defs/Nope", "#", "other.json"), "oneOf": (TAKEN[:2],),
}  # fmt: skip


def spoilt(draw: random.Random) -> dict[str, Any]:
    """A rule of keywords that need not go together."""
    kinds = ["string", "integer", "number", "array", "object", ["string", "null"]]
    rule: dict[str, Any] = {"type": draw.choice(kinds)} if draw.random() < 0.8 else {}
    return rule | {
        key: draw.choice(KEYS[key]) for key in draw.sample(list(KEYS), draw.randint(1, 3))
    }


def asked(
    engine: str = "vllm",
    schema: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
) -> tuple[str, str]:
    return answered(
        {
            "engine": engine,
            "local": {"model": "m"},
            "constraint": {"schema": schema, "labels": None if schema else ["a", "b"]},
            "sampling": {"max_tokens": 48, "extra": extra or {}},
            "vocabulary": VOCABULARY,
        }
    )


def around(rule: dict[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    """The rule in a few schemas, itself and as a part of others."""
    draw = random.Random(seed)
    for _ in range(5):
        names = ["a", draw.choice(["b", "é", "x y"])]
        inner = {"list": {"type": "array", "items": rule, "minItems": 1}, "plain": rule}
        inner["deep"] = {"type": "object", "properties": {"n": rule}, "required": ["n"]}
        part = inner[draw.choice(list(inner))]
        yield {
            "type": "object", "properties": {names[0]: {"enum": ["x"]}, names[1]: part},
            "required": names, "additionalProperties": draw.choice([True, False]),
            "$defs": {"Own": {"type": "string", "maxLength": 3}},
        }  # fmt: skip


@pytest.mark.parametrize("extra", BAD, ids=str)
def test_a_setting_that_is_refused_is_told(extra: dict[str, Any]) -> None:
    refusal, unseen = asked(extra=extra)
    assert "local.sampling" in refusal
    assert "\n" not in refusal
    assert not unseen


@pytest.mark.parametrize("extra", GOOD, ids=str)
def test_a_setting_that_is_taken_is_let_be(extra: dict[str, Any]) -> None:
    assert asked(extra=extra) == ("", "")


@pytest.mark.parametrize("extra", [*BAD[:7], {"min_p": -1}, {"top_k": "a"}, {"stop": "x"}], ids=str)
def test_the_other_engine_s_settings(extra: dict[str, Any]) -> None:
    refusal, _ = asked("transformers", extra=extra)
    assert "local.sampling" in refusal and "\n" not in refusal


def test_none_that_passes_fails_the_engine() -> None:
    """It compiles with a model's own vocabulary, in the backend that the job would get."""
    from vllm.config import StructuredOutputsConfig

    tokenizer = AutoTokenizer.from_pretrained(jobs.DEMO_MODEL)
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)
    passed = 0
    for seed in range(SEEDS):
        draw = random.Random(seed)
        schema = next(around(spoilt(draw), seed)) | {"$defs": DEFS}
        if asked(schema=schema)[0] or list(senseless(schema)):
            continue
        passed += 1
        held = holding.structured(Constraint(schema=schema), StructuredOutputsConfig())
        if held.grammar is not None:
            compiler.compile_grammar(held.grammar)
            continue
        given = held.json if isinstance(held.json, str) else json.dumps(held.json)
        grammar = llguidance.LLMatcher.grammar_from_json_schema(given)
        made = llguidance.LLMatcher(llguidance.hf.from_tokenizer(tokenizer), grammar)
        assert not made.is_error(), schema
    assert SEEDS // 10 < passed < SEEDS


@pytest.mark.parametrize("rule", REFUSED, ids=str)
def test_a_schema_that_is_refused_is_told(rule: dict[str, Any]) -> None:
    for schema in around(rule, len(str(rule))):
        refusal, _ = asked(schema=schema)
        assert refusal or list(senseless(schema))
        assert "\n" not in refusal


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
@pytest.mark.parametrize("rule", TAKEN, ids=str)
def test_a_schema_that_is_taken_is_let_be(rule: dict[str, Any], engine: str) -> None:
    for schema in around(rule, len(str(rule))):
        assert asked(engine, schema) == ("", "")
        assert not list(senseless(schema))


def test_the_command_names_the_line(tmp_path: Path) -> None:
    local = {"model": str(jobs.DEMO_MODEL), "sampling": {"top_p": 5}}
    rows = jobs.records(["1"])
    job = jobs.write_job(tmp_path / "job", "http://127.0.0.1:9", rows, local=local)
    result = surelocal("validate", job)
    assert result.exit_code == 2
    assert "local.sampling: top_p must be in" in result.stderr
    assert "line " in result.stderr
